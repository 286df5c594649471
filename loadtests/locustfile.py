"""Load for any deployment:

locust -f loadtests/locustfile.py --headless -u 20 -r 5 -t 60s --host http://127.0.0.1:8000
"""

from loadtests.users.companion import Companion

__all__ = ["Companion"]
