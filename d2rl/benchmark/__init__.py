"""The benchmark: a matrix of training runs, its cells in processes of their own, statistics, report, figures."""
