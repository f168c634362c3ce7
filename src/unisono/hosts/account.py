"""What this host would compute, and of what: the account that `differences` compares with others'."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from unisono.errors import UsageError
from unisono.machine.kernels import chosen_by
from unisono.runs.execution import Execution
from unisono.runtime.preparation.code_files import CodeFile
from unisono.runtime.preparation.digest import job_digest
from unisono.runtime.preparation.prepared import Described
from unisono.version import __version__


def account_of(execution: Execution, threads: int, described: Described) -> dict[str, Any]:
    """This host's account; all of it can be JSON.

    Args:
        execution: the job.
        threads: of each worker.
        described: what was found when it was made ready here.

    Raises:
        UsageError: code is not what it was where the job was made.
    """
    facts = job_digest(execution.job, described)
    for part in ("data", "code"):  # more of them is compared, in other words
        del facts[part]
    return {
        "code": _one_code(execution.code, described.code),
        "job": facts,
        "numerics": {
            **described.layout.description.fingerprint, "threads": str(threads), "unisono": __version__,
        },
        "data": described.data,
        "probe": described.probe,
        "arguments": execution.arguments,
        "machine": chosen_by(os.environ),
    }  # fmt: skip


def _one_code(made_of: Mapping[str, CodeFile], read: Mapping[str, CodeFile]) -> dict[str, CodeFile]:
    """The code of both processes.

    >>> _one_code({"a.py": CodeFile("/x/a.py", "1f")}, {"b.py": CodeFile("/x/b.py", "77")}).keys()
    dict_keys(['a.py', 'b.py'])
    """
    for name in made_of.keys() & read.keys():
        (there, before), (here, now) = made_of[name], read[name]
        if before != now:
            raise UsageError(
                f"a job trains with the code that it was made with; {name} was {before} there ({there}), and is {now} "
                f"here ({here}). Have the same files on all hosts: on Ray, --ship DIR."
            )
    return {**made_of, **read}
