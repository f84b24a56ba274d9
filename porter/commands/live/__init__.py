"""Commands on two models that porter does not define: both are built and run."""
