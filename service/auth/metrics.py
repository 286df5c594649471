"""What authentication counts."""

from prometheus_client import Counter

AUTHENTICATIONS = Counter("rapport_authentications_total", "Tokens presented, by what came of them", ["outcome"])
KEY_REFRESHES = Counter("rapport_key_set_reads_total", "Readings of an issuer's key set", ["outcome"])
REVOCATION_READS = Counter("rapport_revocation_reads_total", "Readings of the list of revoked tokens", ["outcome"])
