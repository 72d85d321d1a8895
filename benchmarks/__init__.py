"""What is measured, how, and against whom.

Every figure that the project states comes from a command of this package:

    python -m benchmarks.serving    requests a second, of ours, of the bare web server, and of what people would pick instead (--peers)
    python -m benchmarks.latency    open-loop latency at half load, audit on and off
    python -m benchmarks.batch      rows a second in bodies of 10,000, and what happens past the rate that can be shipped
    python -m benchmarks.parts      what each step of one answer costs in process
    python -m benchmarks.growth     throughput against workers and body size, latency against load
    python -m benchmarks.broadcast  a promotion by broadcast against the number of pods
    python -m benchmarks.reads      what monitor and drift read of an audit that grows, and how long that takes
    python -m benchmarks.soak       memory, tail latency and lost answers over a long run
    python -m benchmarks            the first five in turn

Figures depend on the machine; what is claimed are ratios between subjects that took turns in one
run.
"""
