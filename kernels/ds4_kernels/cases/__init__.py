"""What ``ds4-kernels check`` and ``ds4-kernels bench`` run: per area a module with ``check_cases()`` and
``bench_cases()``."""
