"""Runs `cprec` in processes that can be killed: forked from this one, which has done the imports. Not a test.

Reads JSON lines: {"argv": [...], "said": file, "watch": path, "die": n or null}. A child runs `argv`, prints to `said`,
and kills itself before the n-th file event on a path that begins with `watch`. Answers two lines each: its process id,
then [how it ended, file events met or null].
"""

import json
import os
import signal
import sys

_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}


def child(job: dict, told: int) -> int:
    descriptor = os.open(job["said"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    met = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal met
        if event in _EVENTS and any(
            isinstance(a, str | os.PathLike) and os.fspath(a).startswith(job["watch"]) for a in args
        ):
            met += 1
            if met == job["die"]:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    status = main(job["argv"])
    os.write(told, str(met).encode())
    return status


if __name__ == "__main__":
    import datasets  # noqa: F401
    import huggingface_hub.hf_api
    import matplotlib.backends.backend_agg  # noqa: F401
    import scipy.stats  # noqa: F401
    import transformers

    transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast, huggingface_hub.CommitOperationAdd  # noqa: B018
    from cprec_hf.cli import main
    from cprec_hf.corpus import build, push  # noqa: F401
    from cprec_hf.hub import kinds, publish  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        listen, told = os.pipe()
        process = os.fork()
        if not process:
            os.close(listen)
            code = 70
            try:
                code = child(job, told)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(told)
        print(process, flush=True)
        _, status = os.waitpid(process, 0)
        met = os.read(listen, 100)
        os.close(listen)
        print(json.dumps([os.waitstatus_to_exitcode(status), int(met) if met else None]), flush=True)
