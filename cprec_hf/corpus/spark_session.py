"""The Spark session that `engine: spark` runs in: what it needs of the machine, where it keeps tables, how it fails.

Master, memory, cores and every other setting are the environment's own: `spark-submit --master ...`,
`$SPARK_HOME/conf/spark-defaults.conf`, `PYSPARK_SUBMIT_ARGS`, or a session that is running already. Without any of them
Spark runs here, on all cores (`local[*]`).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cprec_hf.errors import InputError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def spark_session() -> SparkSession:
    """The running Spark session, or a new one, which logs errors only.

    Raises:
        InputError: PySpark or Java is missing, Spark does not start, or Spark Connect is asked for.
    """
    try:
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError as error:
        raise InputError(
            f"`engine: spark` needs PySpark 4 ({error}); run `pip install 'cprec-hf[spark]'`, or choose "
            "`engine: polars`"
        ) from None
    if "SPARK_REMOTE" in os.environ:
        raise InputError(
            "SPARK_REMOTE asks for Spark Connect, which has no broadcast variables; unset it, and name the cluster by "
            "`spark-submit --master URL` or in spark-defaults.conf"
        )
    # Arrow tables never pass through pandas here, whatever version of it PySpark would like to see.
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
    running = SparkSession.getActiveSession()
    if running is not None:
        return running
    _require_java()
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # or workers start whatever `python3` is
    at_terminal = str(sys.stderr.isatty()).lower()
    builder = SparkSession.builder.appName("cprec corpus build").config("spark.log.level", "ERROR")
    try:
        return builder.config("spark.ui.showConsoleProgress", at_terminal).getOrCreate()
    except (PySparkException, OSError) as error:
        raise InputError(f"`engine: spark`: Spark does not start ({error}); Spark 4 needs Java 17 or newer") from None


class Scratch:
    """Tables that several queries read, written once as Parquet.

    Files outlive the executors that wrote them, as a cache or a local checkpoint would not.

    Args:
        session: the Spark session.
        folder: exists already, on a disk that this process and all workers see.
    """

    def __init__(self, session: SparkSession, folder: Path) -> None:
        self.session, self.folder = session, folder.absolute()
        self._written: dict[str, int] = {}

    def keep(self, name: str, rows: DataFrame) -> DataFrame:
        """Write rows and return them as they are read; what was kept under that name before them is removed."""
        number = self._written.get(name, -1) + 1
        path = self.folder / f"{name}-{number}"
        rows.write.parquet(path.as_uri())
        self._written[name] = number
        shutil.rmtree(self.folder / f"{name}-{number - 1}", ignore_errors=True)
        return self.session.read.schema(rows.schema).parquet(path.as_uri())


@contextmanager
def errors_of_workers() -> Iterator[None]:
    """Inside, an `InputError` that a function raised on a worker is raised here, without Spark's and Java's traces."""
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        if found := re.search(r"cprec_hf\.errors\.InputError: (.*)", str(error)):
            raise InputError(found[1]) from None
        raise


def _require_java() -> None:
    """A Java there must be, unless a JVM that started this process (spark-submit) is there already."""
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return
    home = os.environ.get("JAVA_HOME")
    if not shutil.which("java", path=str(Path(home) / "bin") if home else None):
        place = f"at JAVA_HOME ({home})" if home else "on PATH"
        raise InputError(
            f"`engine: spark` needs Java 17 or newer, and there is none {place}; install one (a JRE is enough), "
            "or choose `engine: polars`"
        )
