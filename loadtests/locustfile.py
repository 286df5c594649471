"""Load for any deployment, by users that behave like people:

locust -f loadtests/locustfile.py --headless -u 20 -r 5 -t 60s --host http://127.0.0.1:8000
locust -f loadtests/locustfile.py --headless -u 200 -t 10m --shape spike --host https://chat.example --signing-key session.pem

How they sign in: --tokens FILE, --signing-key PEM, the key of a `rapport up` on this machine, or --anonymous.
"""

from typing import Any

from locust import LoadTestShape, events

from loadtests.settings import add_options
from loadtests.shapes import users_at
from loadtests.users.hostile import Hostile
from loadtests.users.talkers import Importer, Newcomer, Regular

__all__ = ["Hostile", "Importer", "Newcomer", "Regular"]

KIND = (Newcomer, Regular, Importer)


def _choose(environment: Any, **_: Any) -> None:
    """The share of hostile users, and whether a shape moves the number of all."""
    options = environment.parsed_options
    if options is None:
        return
    peaceful = sum(kind.weight for kind in KIND)
    share = min(99, max(0, options.hostile))
    Hostile.weight = round(peaceful * share / (100 - share)) if share else 0
    environment.user_classes = [kind for kind in environment.user_classes if kind is not Hostile or share]
    if options.shape != "none":
        environment.shape_class = Shape()  # type: ignore[no-untyped-call]
        environment.shape_class.runner = environment.runner


class Shape(LoadTestShape):
    """--shape's own: --users is the most, --spawn-rate how fast they come, --run-time how long it all takes."""

    abstract = True  # Locust takes any other shape that it finds for the one to follow, asked for or not
    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        runner: Any = self.runner
        options, now = runner.environment.parsed_options, float(self.get_run_time())  # type: ignore[no-untyped-call]
        users = users_at(options.shape, now, options.num_users or 1, _seconds(options.run_time))
        return None if users is None else (users, float(options.spawn_rate or 10))


def _seconds(run_time: Any) -> float | None:
    """Locust parses --run-time late, so it may still be text such as 1m30s."""
    if run_time is None or isinstance(run_time, (int, float)):
        return run_time
    from locust.util.timespan import parse_timespan

    return float(parse_timespan(run_time))


events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]
events.init.add_listener(_choose)  # type: ignore[no-untyped-call]
