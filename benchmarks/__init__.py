"""Measurements of the product's speed, and of the alternatives to it.

Every figure that the project states comes from a command of this package:

    python -m benchmarks.serving    requests per second of the product and the bare web server,
                                    with --peers also of other model servers
    python -m benchmarks.latency    open-loop latency at half load, audit on and off
    python -m benchmarks.batch      rows per second in bodies of 10,000, and overload of the spool
    python -m benchmarks.parts      the cost of each step of one answer, in process
    python -m benchmarks.growth     throughput by workers and body size, latency by load
    python -m benchmarks.broadcast  a promotion by broadcast, by number of pods
    python -m benchmarks.reads      the reads of monitor and drift from a growing audit
    python -m benchmarks.boundary   the cost of the limits of HTTP, and hostile clients
    python -m benchmarks.starts     the start of a pod, next to the release before
    python -m benchmarks.soak       memory, tail latency and lost answers over a long run
    python -m benchmarks            the first five in turn

Figures depend on the machine. The project claims only ratios between subjects that took turns in
one run.
"""
