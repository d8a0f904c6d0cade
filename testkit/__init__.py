"""What tests and benches share: makers of pictures, jobs, networks and servers."""
