"""The parent of the harness's processes: `python -m tests.faults.forks`. See tests/fixtures/forks.py."""

from tests.faults import entry
from tests.fixtures import forks

if __name__ == "__main__":
    entry.warm_up()
    forks.serve(lambda order: entry.run(order["role"], order.get("switch", "")))
