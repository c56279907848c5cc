"""Many runs: grids, sweeps, tables, figures and claims."""
