"""The Python face: an exported model used as Ultralytics' `YOLO` is used."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from ..artifacts.reading import Artifact
from ..errors import InputError, OptionError, UsageError
from ..models.preprocess import BUNDLED, sample_images
from .tracking import TRACKING_CONFIDENCE, check_tracking, register

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self
    from ultralytics.engine.results import Results


_ELSEWHERE = {
    **dict.fromkeys(
        ("train", "tune", "resume"), 'train the checkpoint, YOLO("best.pt").{name}(…), and export what comes of it'
    ),
    **dict.fromkeys(("load", "save", "reset_weights"), "its weights are fixed; export another checkpoint"),
    **dict.fromkeys(
        ("half", "float", "to", "cuda", "cpu", "fuse", "eval", "compile"),
        "precision and device were settled by the export and when it was opened; leave it out",
    ),
    **dict.fromkeys(("model", "embed", "transforms", "state_dict", "parameters"), "it is no PyTorch module"),
    "export": 'it is exported already; export("best.pt", …) makes another',
    "benchmark": "`yolo26-et bench FOLDER` measures it",
    "info": "`yolo26-et inspect FOLDER` and load_manifest(FOLDER) tell about it",
    **dict.fromkeys(("add_callback", "clear_callback", "reset_callbacks", "callbacks"), "it calls none"),
}
"""What Ultralytics' `YOLO` has and an exported model has not: what to do instead."""


class YOLO26:
    """An exported model, with the methods of Ultralytics' `YOLO`.

    Sources, settings and results are Ultralytics' own. What an export settles (size, precision, device) is no setting
    any more; the `iou` of a suppression has no effect on these models, which need none.

    Examples:
        >>> with YOLO26("yolo26_cuda_exports/yolo26n") as model:
        ...     for result in model.predict("bus.jpg", conf=0.4):
        ...         found = result.verbose()
        ...     print(model.task, model.names[0], model.device)
        detect ...
    """

    predictor: Any
    """Ultralytics' predictor of the latest call, None before the first."""

    folder: Path
    """The artifact's."""

    def __init__(
        self,
        folder: Artifact | Path | str,
        task: str | None = None,
        *,
        runner: str = "auto",
        device: torch.device | str | int | None = None,
    ) -> None:
        """Open an artifact.

        Args:
            folder: an artifact's, or the artifact, open already.
            task: what Ultralytics wants to be told of an exported model; it is known here, and only compared.
            runner: as for `open_runner`.
            device: as for `open_runner`.

        Raises:
            OptionError: the model has another task; or as `open_runner`, like all other errors.
        """
        from .ultralytics_backend import RunnerBackend

        self.folder = folder.folder if isinstance(folder, Artifact) else Path(folder)
        self.predictor = None
        self._runner = runner
        self._backend = RunnerBackend.open(folder, runner, device)
        self._tracker: Any = None
        self._closed = False
        if task not in (None, self.task):
            self.close()
            raise OptionError(f"task={task!r}: this model's is {self.task}; leave it out")

    @property
    def task(self) -> str:
        """The task, by Ultralytics' name."""
        return self._backend.task

    @property
    def names(self) -> dict[int, str]:
        """The class names."""
        return self._backend.names

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self._backend.device

    if not TYPE_CHECKING:  # which know what there is

        def __getattr__(self, name: str) -> Any:
            """Say what to do instead of what Ultralytics' `YOLO` has; raises AttributeError."""
            why = _ELSEWHERE.get(name, "help(YOLO26) shows what it has").format(name=name)
            raise AttributeError(f"an exported model has no {name}: {why}", name=name, obj=self)

    @overload
    def predict(self, source: Any = BUNDLED, stream: Literal[False] = False, **settings: Any) -> list[Results]: ...
    @overload
    def predict(self, source: Any, stream: Literal[True], **settings: Any) -> Iterator[Results]: ...
    def predict(
        self, source: Any = BUNDLED, stream: bool = False, **settings: Any
    ) -> list[Results] | Iterator[Results]:
        """Run the model on a source.

        Args:
            source: whatever Ultralytics takes; see `sources.open_source`. What cannot be read is left out, and
                `predictor.dataset.unreadable` names it. Without one: the photographs that come with Ultralytics.
            stream: return a generator, which holds one batch at a time, instead of a list.
            settings: Ultralytics' own, such as `conf`, `max_det`, `save`, `save_dir`; `classes` also takes names.
                What could not be saved is in `predictor.unsaved`.

        Returns:
            A result for each image, in pixels of the image.

        Raises:
            InputError: the source cannot be opened, or holds what the model cannot take.
            OptionError: a setting is not legal, or cannot be honoured.
            UsageError: the model is closed, or a package is missing that the source needs.

        Examples:
            >>> model = YOLO26("yolo26_cuda_exports/yolo26n")
            >>> for result in model.predict(["bus.jpg", "zidane.jpg"], stream=True, conf=0.4):
            ...     print(Path(result.path).name, result.boxes.xyxy.shape[1])
            bus.jpg 4
            zidane.jpg 4
            >>> len(model("bus.jpg"))
            1
        """
        self.predictor = self._make(source, "predict", settings)
        return self._run(stream)

    __call__ = predict

    @overload
    def track(
        self, source: Any, stream: Literal[False] = False, persist: bool = False, **settings: Any
    ) -> list[Results]: ...
    @overload
    def track(
        self, source: Any, stream: Literal[True], persist: bool = False, **settings: Any
    ) -> Iterator[Results]: ...
    def track(
        self, source: Any, stream: bool = False, persist: bool = False, **settings: Any
    ) -> list[Results] | Iterator[Results]:
        """Run the model on a video and give each object a number that it keeps from frame to frame.

        Arguments, results and errors are those of `predict`; `tracker` names one of Ultralytics' trackers.

        Args:
            source: a video, a stream, or one frame of either with `persist`.
            stream: return a generator.
            persist: go on with the objects of the call before.
            settings: as for `predict`.

        Raises:
            UsageError: the task has no objects, or the package that the trackers need is not installed.
            OptionError: there is no such tracker, or its file is not complete.

        Examples:
            >>> model = YOLO26("yolo26_cuda_exports/yolo26n")
            >>> for result in model.track("drive.mp4", stream=True):  # doctest: +SKIP
            ...     print(result.boxes.id)
        """
        tracker = check_tracking(self.task, settings.get("tracker"))
        named = {} if tracker is None else {"tracker": tracker}
        predictor = self._make(source, "track", {"conf": TRACKING_CONFIDENCE, **settings, **named})
        if persist and self._tracker is not None:  # the objects are kept there
            kept, made = self._tracker, predictor
            kept.args, kept.save_dir, kept.source = made.args, made.save_dir, made.source
            predictor = kept
        register(predictor, persist=persist)
        self.predictor = self._tracker = predictor
        return self._run(stream)

    def val(self, data: Path | str | None = None, **options: Any) -> Any:
        """Validate the model on a data set; arguments, results and errors are those of `validate.validate`.

        Examples:
            >>> model = YOLO26("yolo26_cuda_exports/yolo26n")
            >>> report = model.val("coco.yaml", against_pytorch=True)  # doctest: +SKIP
            >>> report.artifact.metrics["metrics/mAP50-95(B)"]  # doctest: +SKIP
        """
        from .validate import validate

        if data is None:
            raise UsageError('val: the data set is missing; give val(data="data.yaml"), the file it was trained with')
        return validate(self.folder, data, **{"runner": self._runner, **options})

    def close(self) -> None:
        """Give back what the model holds; it is of no use afterwards.

        Examples:
            >>> model = YOLO26("yolo26_cuda_exports/yolo26n")
            >>> model.close()
        """
        self._closed = True
        self._backend.close()

    def __repr__(self) -> str:
        size = "x".join(map(str, self._backend.imgsz))
        state = ", closed" if self._closed else ""
        return (
            f"YOLO26({str(self.folder)!r}: {self.task}, {len(self.names)} classes, input {size}, batch "
            f"{self._backend.batch}, on {self._backend.device}, runner {self._backend.runner.name}{state})"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make(self, source: Any, mode: str, settings: Mapping[str, Any]) -> Any:
        """Return a predictor with the opened source as its `source`; raises UsageError in a forked child."""
        from . import predict, sources

        self._backend.owner.check()
        if self._closed:
            raise UsageError(f"the model of {self.folder} was closed; open it again with YOLO26({str(self.folder)!r})")
        if settings.get("classes") is not None:
            settings = {**settings, "classes": class_indices(settings["classes"], self.names)}
        if source is None:
            raise InputError("None is no image; cv2.imread gives it for a file that it cannot read: check the path")
        predictor = predict.make_predictor(self._backend, mode, settings)
        args = predictor.args
        predictor.source = sources.open_source(
            sample_images() if source is BUNDLED else source,
            batch=args.batch,
            vid_stride=args.vid_stride,
            buffer=args.stream_buffer,
        )
        return predictor

    def _run(self, stream: bool) -> list[Results] | Iterator[Results]:
        results: list[Results] | Iterator[Results] = self.predictor(source=self.predictor.source, stream=stream)
        return results


def class_indices(wanted: int | str | Sequence[int | str], names: Mapping[int, str]) -> list[int]:
    """Return the indices of classes given as indices or names, which may differ in case.

    Raises:
        OptionError: there is no such class; near names are named.
    """
    by_name = {name.casefold(): index for index, name in names.items()}
    found = []
    for word in [wanted] if isinstance(wanted, int | str) else wanted:
        index = by_name.get(str(word).casefold(), int(word) if str(word).isdecimal() else -1)
        if index not in names:
            near = difflib.get_close_matches(str(word).casefold(), by_name, 3)
            hint = f"did you mean {', '.join(names[by_name[name]] for name in near)}?" if near else ""
            known = f"it has {len(names)}: {', '.join(list(names.values())[:5])}{', …' if len(names) > 5 else ''}"
            raise OptionError(f"classes: the model has no class {word}; {hint or known}")
        found.append(index)
    return found
