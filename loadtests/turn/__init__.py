"""What a turn costs beside other programs that relay a model's stream: `make bench-turn`.

One mock model server and one client for all, each relay in its turn, interleaved. "Added" is the time to the first
token beyond what the mock took; CPU is that of the relay's whole process tree, for each token that the mock sent.
"""
