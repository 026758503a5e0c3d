"""From a name to a tested artifact.

api              `export`, for Python
request          what is asked for: checked as a whole before any work, then carried out
existing         what lies where artifacts are to go: skipped, replaced or left alone
jobs             a job, and the record of how it ended, as JSON between processes
scheduler        jobs on this machine, each in a process of its own
cluster          jobs on a Ray cluster
task_queue       what both have in common
export_process   one job's process: its events, limits and record
child_process    a process, its log, and its end
worker           what runs in that process
pipeline         one job, from its checkpoint to the artifact in its place
smoke_test       the written files against PyTorch, in a further process
progress         what is seen of it all on a terminal
"""
