"""A simulated fleet on loopback, reached by SSH, HTTP and stand-in executables only."""
