"""What an instance knows of the schema without loading what changes it."""

import subprocess
import sys

from alembic.script import ScriptDirectory

from service import migrate


def test_the_head_is_the_one_that_alembic_finds() -> None:
    assert migrate.head() == ScriptDirectory(str(migrate.SCRIPTS)).get_current_head()


def test_who_serves_or_works_loads_no_sqlalchemy() -> None:
    """It was a sixth of what a process loads, and every take-over of a dead one's place waits for that."""
    loaded = "import sys, service.server, service.worker.main; print([m for m in ('sqlalchemy', 'alembic') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
