"""What people type, brought to a command's own flags: Ultralytics' `key=value` words and flags, and near misses.

`yolo26-et export model=best.pt half=True` becomes `yolo26-et export best.pt --half`. Every flag of a command may be
written `key=value`; what Ultralytics calls otherwise is in the tables below, with what becomes of it.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from ..errors import OptionError, UsageError
from ..models.variants import ALL_VARIANTS

COMMAND_NAMES = {"track": ("predict", "--track"), "benchmark": ("bench",)}
"""Ultralytics' names of commands → ours, with the flags that go with them."""

NOT_HERE = {
    **dict.fromkeys(("train", "tune", "settings", "cfg", "copy-cfg", "login", "logout", "solutions"), "`yolo {line}`"),
    "checks": "`{prog} doctor`",
    "version": "`{prog} --version`",
    "help": "`{prog} --help`",
}
"""Commands of Ultralytics' that are none here, and what to type."""

FORMER_WORDS = {
    "weights": "model", "img": "imgsz", "img_size": "imgsz", "conf_thres": "conf", "iou_thres": "iou",
    "batch_size": "batch",
}  # fmt: skip
"""What earlier versions of YOLO called a setting → Ultralytics' word for it."""

TASK_WORDS = ("detect", "segment", "pose", "obb", "classify", "semantic", "depth")
"""Ultralytics' command takes the task before the mode; a model knows its own."""

_OWN_FLAGS = ("-h", "--help", "--version")
"""The program's, before any command."""

_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_-]*)=(.*)", re.DOTALL)
_SWITCHES = frozenset(
    {
        "half", "int8", "dynamic", "end2end", "nms", "agnostic_nms", "keras", "optimize", "simplify", "verbose",
        "stream", "exist_ok",
    }
)  # fmt: skip
"""Ultralytics' flags that stand without a value."""
_REWORDED = frozenset({"device", "half", "int8"})
"""Flags of ours whose values, or absence, Ultralytics words otherwise."""
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off", "none", "")


@dataclass
class Typed:
    """A command line in our own words, while it is being put together."""

    positionals: list[str] = field(default_factory=list)
    """As they were typed."""
    model: str | None = None
    """Goes before the positionals."""
    source: list[str] = field(default_factory=list)
    """Goes behind them."""
    flags: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What the user is told, a line each."""

    @property
    def words(self) -> list[str]:
        """The arguments for the command's parser."""
        positionals = [*([self.model] if self.model else []), *self.positionals, *self.source]
        separator = ["--"] if any(word.startswith("-") for word in positionals) else []
        return [*self.flags, *separator, *positionals] if separator else [*positionals, *self.flags]


Meaning: TypeAlias = "Callable[[Typed, str, str], None]"
"""What becomes of a word as it was typed, such as `iou=0.5`, and of its value; raises OptionError to refuse it."""


def truth(value: str) -> bool:
    """Return what a value such as True, 1 or off says; raises OptionError."""
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise OptionError(f"expected True or False, given {value!r}")


def _switch(*flags: str) -> Meaning:
    def meaning(typed: Typed, word: str, value: str) -> None:
        if truth(value):
            typed.flags += flags

    return meaning


def _flag(flag: str) -> Meaning:
    def meaning(typed: Typed, word: str, value: str) -> None:
        typed.flags += [flag, value]

    return meaning


def _model(typed: Typed, word: str, value: str) -> None:
    typed.model = value


def _source(typed: Typed, word: str, value: str) -> None:
    typed.source.append(value)


def _no_effect(why: str) -> Meaning:
    def meaning(typed: Typed, word: str, value: str) -> None:
        typed.notes.append(f"{word} has no effect: {why}")

    return meaning


def _settled(typed: Typed, word: str, value: str) -> None:
    """Take a switch of the export's where an artifact is used."""
    if truth(value):
        typed.notes.append(f"{word} has no effect: the precision was settled by the export, where it is a flag, too")


def _ignored(typed: Typed, word: str, value: str) -> None:
    """Take what says nothing that is not known already."""


def _unless_false(why: str) -> Meaning:
    """Refuse a switch that is on."""

    def meaning(typed: Typed, word: str, value: str) -> None:
        if value.lower() not in _FALSE:
            raise OptionError(why)

    return meaning


def _unless_true(why: str) -> Meaning:
    """Refuse a switch that is off."""

    def meaning(typed: Typed, word: str, value: str) -> None:
        if value.lower() not in _TRUE:
            raise OptionError(why)

    return meaning


def _format(typed: Typed, word: str, value: str) -> None:
    if value.lower() not in ("executorch", "pte", ""):
        raise OptionError(
            "this command makes ExecuTorch programs alone; type format=executorch or leave it out (Ultralytics' own "
            f"`yolo export format={value}` makes the other)"
        )


def _device(flag: str) -> Meaning:
    """Take Ultralytics' names of devices: cpu, 0, cuda:0, 0,1."""

    def meaning(typed: Typed, word: str, value: str) -> None:
        device = value.lower().strip("[]() ").replace(" ", "").replace("cuda:", "")
        if device in ("cuda", "", "none"):
            return
        if device == "cpu":
            typed.flags += ["--backend", "xnnpack"] if flag == "--devices" else [flag, device]
            return
        if not re.fullmatch(r"\d+(,\d+)*", device):
            raise OptionError(f"expected cpu or a GPU's number such as 0, given {value!r}")
        typed.flags += [flag, device]

    return meaning


_SUPPRESSION = "YOLO26's end-to-end head gives final objects, so that nothing is suppressed"

_EXPORT: dict[str, Meaning] = {
    "model": _model,
    "models": _model,
    "format": _format,
    "half": _switch("--half"),
    "int8": _switch("--precision", "int8"),
    "device": _device("--devices"),
    "project": _flag("--base-path"),
    "dynamic": _unless_false(
        "shapes are fixed when a model is exported; export once for each size, with --imgsz H W and --batch N"
    ),
    "end2end": _unless_true("the end-to-end head is the one that is exported"),
    **dict.fromkeys(("nms", "agnostic_nms", "iou"), _no_effect(_SUPPRESSION)),
    **dict.fromkeys(
        ("keras", "optimize", "simplify", "opset", "workspace", "fraction"),
        _no_effect("it belongs to other export formats"),
    ),
    **dict.fromkeys(("task", "mode", "verbose", "exist_ok"), _ignored),
}
_PREDICT: dict[str, Meaning] = {
    "model": _model,
    "source": _source,
    "device": _device("--device"),
    "iou": _no_effect(_SUPPRESSION),
    "half": _settled,
    "int8": _settled,
    "stream": _ignored,
    **dict.fromkeys(("task", "mode"), _ignored),
}
_VAL: dict[str, Meaning] = {
    "model": _model,
    "device": _device("--device"),
    "iou": _no_effect(_SUPPRESSION),
    **dict.fromkeys(("conf", "max_det"), _no_effect("validation uses Ultralytics' own thresholds")),
    **dict.fromkeys(("half", "int8"), _settled),
    **dict.fromkeys(("imgsz", "batch", "rect"), _no_effect("the export settled the size and the batch")),
    **dict.fromkeys(("workers", "save_json", "save_txt", "save_conf"), _no_effect("it is not offered here")),
    **dict.fromkeys(("task", "mode", "verbose", "exist_ok"), _ignored),
}
_BENCH: dict[str, Meaning] = {
    "model": _model,
    "device": _device("--device"),
    "format": _format,
    **dict.fromkeys(("half", "int8"), _settled),
    **dict.fromkeys(("imgsz", "batch"), _no_effect("the export settled the size and the batch")),
    **dict.fromkeys(("task", "mode", "verbose"), _ignored),
    "data": _no_effect("bench measures time; `yolo26-et val` measures accuracy"),
}

MEANINGS: Mapping[str, Mapping[str, Meaning]] = {
    "export": _EXPORT, "predict": _PREDICT, "val": _VAL, "bench": _BENCH,
}  # fmt: skip
"""By command: Ultralytics' words that are not, by the same name, flags of ours."""


def translate(command: str, parser: argparse.ArgumentParser, words: Sequence[str]) -> Typed:
    """Bring the words behind a command to its own flags.

    Args:
        command: ours.
        parser: the command's.
        words: what was typed behind the command.

    Raises:
        OptionError: a value cannot be honoured, or a key is unknown; near ones are named.
    """
    actions = {flag: action for action in parser._actions for flag in action.option_strings}
    meanings = MEANINGS.get(command, {})
    typed = Typed()
    words = _joined(words)
    if words and words[0] in TASK_WORDS and meanings and not Path(words[0]).exists():
        words.pop(0)  # Ultralytics takes the task behind the mode, too
    while words:
        word = words.pop(0)
        if word == "--":
            typed.positionals += words
            break
        pair = _KEY.fullmatch(word)
        bare = word[2:].partition("=") if word.startswith("--") and len(word) > 2 else None
        if pair and not _is_path(word):
            value = pair[2]
            if _key(pair[1]) == "imgsz":  # imgsz=640 480
                while words and words[0].isdecimal():
                    value += f",{words.pop(0)}"
            with _naming(word):
                _take(_key(pair[1]), word, value, actions, meanings, typed)
        elif bare and (bare[0] in _REWORDED or f"--{bare[0]}" not in actions) and _key(bare[0]) in meanings:
            value = bare[2] if bare[1] else _value_of(_key(bare[0]), words)
            with _naming(word):
                meanings[_key(bare[0])](typed, word if bare[1] or value == "True" else f"{word} {value}", value)
        elif bare and _key(bare[0]) != bare[0].replace("-", "_") and (renamed := f"--{_key(bare[0])}") in actions:
            words.insert(0, renamed + bare[1] + bare[2])
        elif word.startswith("-") and (action := actions.get(word.partition("=")[0])) is not None:
            typed.flags += _flag_with_values(word, action, words)
        elif re.match(r"--?[A-Za-z]", word):
            raise _unknown_flag(parser, word, actions)
        elif (switch := actions.get(f"--{word.replace('_', '-')}")) and switch.nargs == 0 and not Path(word).exists():
            typed.flags.append(switch.option_strings[0])  # Ultralytics takes `save` for save=True
        else:
            typed.positionals.append(word)
    return typed


def _joined(words: Sequence[str]) -> list[str]:
    """Put `key = value`, `key= value` and `key =value` together, as Ultralytics does."""
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        opens = word.startswith("=") and re.fullmatch(r"[A-Za-z]\w*", before)
        follows = re.fullmatch(r"[A-Za-z]\w*=", before) and not word.startswith("-") and "=" not in word
        if opens or follows:
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _key(word: str) -> str:
    """Return a setting's name of today."""
    key = word.lower().replace("-", "_")
    return FORMER_WORDS.get(key, key)


@contextlib.contextmanager
def _naming(word: str) -> Iterator[None]:
    """Begin what is said of a word with it."""
    try:
        yield
    except OptionError as error:
        raise OptionError(f"{word}: {error}") from None


def split_command(argv: Sequence[str], commands: Sequence[str], prog: str) -> tuple[str | None, list[str]]:
    """Return the command that a line names, None where it names none, and the words behind it.

    Ultralytics' order (`detect predict model=…`) and its names of commands are taken, too.

    Raises:
        UsageError: there is no such command; the message holds the line that was probably meant.
    """
    words = list(argv)
    if not words:
        raise UsageError(
            f"no command; `{prog} export best.pt` exports, `{prog} predict best.pt bus.jpg` runs, and `{prog} --help` "
            "shows all"
        )
    if words[0] in _OWN_FLAGS:
        return None, words
    if words[0].startswith("-"):
        raise _flag_before_command(words, commands, prog)
    modes = [word for word in words if word.startswith("mode=")]
    if len(words) > 1 and words[0] in TASK_WORDS and words[1] in (*commands, *COMMAND_NAMES):
        words.pop(0)
    elif modes and words[0] not in (*commands, *COMMAND_NAMES):
        words = [modes[0].partition("=")[2], *(word for word in words if word not in (*modes, *TASK_WORDS))]
    given, *rest = words
    if given in COMMAND_NAMES:
        command, *flags = COMMAND_NAMES[given]
        return command, [*flags, *rest]
    if given in commands:
        return given, rest
    if given in NOT_HERE:
        right = NOT_HERE[given].format(prog=prog, line=shlex.join(words))
        raise UsageError(f"no command {given} here; type {right}")
    if _KEY.fullmatch(given) or given.endswith(".pt") or given in ALL_VARIANTS or Path(given).is_dir():
        whole = len(words) > 1 and (not _KEY.fullmatch(given) or any(word.startswith("source=") for word in words))
        raise UsageError(f"no command; did you mean `{prog} {shlex.join(['predict' if whole else 'export', *words])}`?")
    near = difflib.get_close_matches(given, [*commands, *COMMAND_NAMES], n=1, cutoff=0.6)
    if near:
        raise UsageError(f"no command {given}; did you mean `{prog} {shlex.join([near[0], *rest])}`?")
    raise UsageError(f"no command {given}; `{prog} --help` shows them: {', '.join(commands)}")


def _flag_before_command(words: Sequence[str], commands: Sequence[str], prog: str) -> UsageError:
    later = next((word for word in words if word in (*commands, *COMMAND_NAMES)), None)
    if later is not None:
        rest = [*words]
        rest.remove(later)
        return UsageError(f"the command goes first; did you mean `{prog} {shlex.join([later, *rest])}`?")
    near = difflib.get_close_matches(words[0], _OWN_FLAGS, n=1)
    hint = f"did you mean `{prog} {near[0]}`?" if near else f"a command goes before flags; `{prog} --help` shows them"
    return UsageError(f"no flag {words[0]} without a command; {hint}")


def _take(
    key: str,
    word: str,
    value: str,
    actions: Mapping[str, argparse.Action],
    meanings: Mapping[str, Meaning],
    typed: Typed,
) -> None:
    """Take one key=value."""
    flag = f"--{key.replace('_', '-')}"
    if meaning := meanings.get(key):
        meaning(typed, word, value)
    elif (action := actions.get(flag)) is not None:
        if action.nargs == 0:
            opposite = f"--no-{flag[2:]}"
            typed.flags += [flag] if truth(value) else [opposite] if opposite in actions else []
        elif action.nargs == "+":
            typed.flags += [flag, *_listed(value)]
        else:
            typed.flags += [flag, value]
    else:
        known = {name[2:].replace("-", "_") for name in _shown(actions)} | {*meanings}
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {near[0]}={value}?" if near else "`--help` shows what it takes"
        raise OptionError(f"no flag or setting of that name; {hint}")


def _flag_with_values(word: str, action: argparse.Action, rest: list[str]) -> list[str]:
    """Return a flag of the parser's with its values, which are taken from the rest as argparse takes them."""
    flag, equals, value = word.partition("=")
    if equals:
        return [flag, *_listed(value)] if action.nargs == "+" else [word]
    found = [flag]
    if action.dest == "imgsz":  # a model may follow: `--imgsz 640 yolo26n`
        while rest and (re.fullmatch(r"[\[(]?[\d\s,x×]+[\])]?", rest[0]) or (rest[0] == "native" and len(found) == 1)):
            found += _listed(rest.pop(0))
        if len(found) == 1 and rest and not rest[0].startswith("-"):
            found.append(rest.pop(0))  # which is then refused in words
        return found
    most = action.nargs if isinstance(action.nargs, int) else len(rest) if action.nargs in ("+", "*") else 1
    while rest and len(found) <= most and not re.match(r"--?[A-Za-z]", rest[0]):
        found.append(rest.pop(0))
    return found


def _listed(value: str) -> list[str]:
    """Return the entries of 640,480 or [0, 2] or 640x480."""
    text = value.strip().strip("[]()")
    if re.fullmatch(r"\d+[x×]\d+", text):
        return re.split("[x×]", text)
    return [entry.strip().strip("'\"") for entry in text.split(",") if entry.strip()]


def _value_of(key: str, rest: list[str]) -> str:
    """Return the value behind a flag of Ultralytics', or True where none stands there."""
    follows = bool(rest) and not rest[0].startswith("-") and not _KEY.fullmatch(rest[0])
    if follows and (key not in _SWITCHES or rest[0].lower() in (*_TRUE, *_FALSE)):
        return rest.pop(0)
    return "True"


def _shown(actions: Mapping[str, argparse.Action]) -> list[str]:
    """Return the flags that the help shows."""
    return [name for name, one in actions.items() if name.startswith("--") and one.help != argparse.SUPPRESS]


def _is_path(word: str) -> bool:
    """Whether a word with an equals sign is a file's name after all."""
    return os.sep in word.partition("=")[0] or Path(word).exists()


def _unknown_flag(parser: argparse.ArgumentParser, word: str, actions: Mapping[str, argparse.Action]) -> UsageError:
    flag = word.partition("=")[0]
    near = difflib.get_close_matches(flag, _shown(actions), n=1)
    if near:
        return UsageError(f"no flag {flag}; did you mean {near[0]}? `{parser.prog} --help` shows all")
    return UsageError(f"no flag {flag}; `{parser.prog} --help` shows what it takes")
