"""The pictures of TensorBoard in docs/: ``python -m tests.tensorboard_pictures LOGDIR FOLDER``."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from accupoison.cli.output import TENSORBOARD
from tests.browser import photograph

VIEWS = {
    "curves": (TENSORBOARD.partition("6006/")[2], 720),
    "hparams": ("#hparams", 460),
    "images": ("#images", 800),
}
"""What stands in the address and the height of the picture, by its name."""
UNTICKED = """localStorage.setItem("_tb_global_settings", '{"ignoreOutliers": false}')"""
"""As TensorBoard remembers that outliers count in the scaling of charts."""
READING, DRAWING = 5, 5
"""Seconds for the server to read the runs, and for a page to draw."""


@contextmanager
def served(logs: Path) -> Iterator[str]:
    """Run a TensorBoard server and give its address."""
    with TemporaryDirectory() as folder, (Path(folder) / "said").open("w") as said:
        command = [
            sys.executable,
            "-m",
            "tensorboard.main",
            "--logdir",
            str(logs),
            "--port",
            "0",
            "--host",
            "127.0.0.1",
        ]
        server = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            while not (address := re.search(r"http://127\.0\.0\.1:\d+/", Path(said.name).read_text())):
                assert server.poll() is None, Path(said.name).read_text()
                time.sleep(0.2)
            time.sleep(READING)
            yield address[0]
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    with served(Path(sys.argv[1])) as address:
        for name, (view, height) in VIEWS.items():
            photograph(address + view, Path(sys.argv[2]) / f"tensorboard-{name}.png", height, UNTICKED, DRAWING)
