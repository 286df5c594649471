"""Those who mean well: new users, users who come back, users who bring a history along."""

import itertools
import json
import random
import secrets
from datetime import UTC, datetime, timedelta

from locust import task

from loadtests.users.person import Person

REGULARS = itertools.count()
TURNS_OF_A_VISIT = 8


class Newcomer(Person):
    """Comes for the first time, talks for a while, looks around, goes; the next one is somebody else."""

    weight = 30

    def on_start(self) -> None:
        self._arrive()

    def _arrive(self) -> None:
        self.subject = f"load-new-{secrets.token_hex(6)}"
        self.come_in()
        self.begin()
        self._left = random.randint(2, TURNS_OF_A_VISIT)

    @task(9)
    def speak(self) -> None:
        if self._left <= 0:
            self._arrive()
        self._left -= 1
        self.talk()

    @task(1)
    def look_around(self) -> None:
        self.client.get("/v1/conversations", name="conversations")


class Regular(Person):
    """Comes back day after day: reads where they left off, talks, changes their mind, looks after their memories."""

    weight = 60

    def on_start(self) -> None:
        self.subject = f"load-regular-{next(REGULARS)}"
        self.come_in()
        with self.client.get("/v1/conversations", name="conversations", catch_response=True) as answer:
            found = answer.json()["items"] if answer.status_code == 200 else []
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
        if found:
            self.conversation = found[0]["id"]
            self.client.get(f"/v1/conversations/{self.conversation}/messages", name="messages")
        else:
            self.begin()

    @task(24)
    def speak(self) -> None:
        self.talk()

    @task(2)
    def interrupt(self) -> None:
        self.talk(stop=True)

    @task(2)
    def ask_again(self) -> None:
        self.regenerate()

    @task(1)
    def read_back(self) -> None:
        self.client.get(f"/v1/conversations/{self.conversation}/messages", name="messages")

    @task(1)
    def open_memory_panel(self) -> None:
        """What is known of me, what exactly, and a correction now and then."""
        with self.client.get("/v1/memories?layer=fact", name="memories", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return
            found = answer.json()["items"]
        self.client.post("/v1/memories/search", json={"query": self.teller.said()[:80]}, name="search memories")
        if not found:
            self.client.post("/v1/memories", json={"text": f"I like {self.teller.said()[:60]}"}, name="add a memory")
            return
        memory = f"/v1/memories/{random.choice(found)['id']}"
        self.client.get(memory, name="one memory")
        if random.random() < 0.3:
            self.client.patch(memory, json={"pinned": True}, name="pin a memory")


class Importer(Person):
    """Brings a chat from elsewhere, and talks on with all of it remembered."""

    weight = 5

    def on_start(self) -> None:
        self.come_in()
        self.begin()

    @task(1)
    def bring_history(self) -> None:
        """Twenty lines, each time other ones."""
        began = datetime.now(UTC) - timedelta(days=random.randint(30, 300))
        tag = secrets.token_hex(4)
        lines = [{"rapport": 1, "id": f"load-{tag}", "user": "Me", "companion": "Mel"}]
        for n in range(20):
            mine = n % 2 == 0
            lines.append(
                {
                    "speaker": "Me" if mine else "Mel",
                    "text": self.teller.said() if mine else self.teller.answered(),
                    "at": (began + timedelta(minutes=n)).isoformat(),
                    "id": f"{tag}-{n}",
                }
            )
        body = "\n".join(map(json.dumps, lines)).encode()
        with self.client.post(
            "/v1/conversations/import?format=rapport",
            data=body,
            headers={"Content-Type": "application/x-ndjson"},
            name="import",
            catch_response=True,
        ) as answer:
            if answer.status_code != 201:
                answer.failure(f"status {answer.status_code}: {answer.text[:200]}")
            elif answer.json()["imported"] != 20:
                answer.failure(f"{answer.json()['imported']} of 20 messages were imported")
            else:
                self.conversation = answer.json()["conversation_id"]

    @task(6)
    def speak(self) -> None:
        self.talk()
