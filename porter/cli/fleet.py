"""`porter fleet`: many conversions and proofs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import click

from porter.cli.layout import columns, say, wrapped
from porter.cli.output import force_option, json_option, quiet_option


@click.command("fleet")
@click.argument("manifest", type=click.Path())
@click.option("--workers", type=click.IntRange(1), metavar="N",
              help="Processes at a time; default: one for every two cores.")  # fmt: skip
@click.option("--ray", "use_ray", is_flag=False, flag_value="local", metavar="[ADDRESS]",
              help="Run the jobs on Ray: a cluster, or one on this machine.")  # fmt: skip
@click.option("--resume", is_flag=True, help="Leave out what an earlier run has finished.")
@click.option("--dry-run", is_flag=True, help="Print the jobs, with bytes and times.")
@click.option("--report", "reports", multiple=True, type=click.Path(), metavar="FILE",
              help="Write a summary: .md, .html, .json, .xml (JUnit), .badge.json.")  # fmt: skip
@click.option("--baseline", type=click.Path(), metavar="FILE",
              help="Summary (.json) of an earlier run, to compare the errors with.")  # fmt: skip
@force_option
@json_option
@quiet_option
@click.pass_context
def command(
    ctx: click.Context,
    manifest: str,
    workers: int | None,
    use_ray: str | None,
    resume: bool,
    dry_run: bool,
    reports: tuple[str, ...],
    baseline: str | None,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the conversions and proofs of MANIFEST, a TOML or YAML file (docs/scale.md).

    A job that fails does not stop the others. The exit code is 1 if one failed or was refused, 3
    if a proof was not made because a framework is missing.
    """
    if reports:
        from porter.fleet.reports import check

        check(reports, [manifest], force)
    if dry_run:
        from porter.fleet.run import plan

        _print_plan(plan(manifest))
        return

    def watch(result: Any, done: int, total: int) -> None:
        if not quiet and not as_json:
            say(
                f"{done}/{total}  {result.status:9}  {result.name}  {result.seconds:.1f} s",
                err=True,
            )

    with _runner(use_ray, workers) as runner:
        from porter.fleet.run import fleet  # Loads while the processes start.

        summary = fleet(manifest, runner=runner, resume=resume, baseline=baseline, watch=watch)
    if reports or as_json:
        _write_reports(summary, manifest, reports, force, as_json)
    if quiet and not as_json:
        _print_faults(summary, err=True)
    elif not as_json:
        _print_table(summary)
        _print_faults(summary)
        say(summary.headline)
    ctx.exit(summary.exit_code)


def _runner(use_ray: str | None, workers: int | None) -> AbstractContextManager[Any]:
    """Return where the jobs are run."""
    if use_ray is None:
        from porter.fleet.pool import LocalPool, usual

        return LocalPool(workers or usual())
    from porter.fleet.on_ray import RayPool

    return nullcontext(RayPool(None if use_ray == "local" else use_ray, workers))


def _write_reports(
    summary: Any, manifest: str, reports: tuple[str, ...], force: bool, as_json: bool
) -> None:
    from porter.fleet import reports as rendering

    for path in reports:
        rendering.write(summary, path, force=force, inputs=[manifest])
    if as_json:
        click.echo(rendering.render(summary, ".json"), nl=False)


def _print_table(summary: Any) -> None:
    from porter.fleet.reports import columns as cells

    rows = [cells(summary, result) for result in summary.results]
    click.echo(columns([(row[0], row[3], row[4], row[5], f"{row[7]} s") for row in rows]))


def _print_faults(summary: Any, err: bool = False) -> None:
    """Print why jobs failed or were not done."""
    for result in summary.results:
        if not result.good:
            why = result.message or result.status
            click.echo(wrapped(f"{result.name}: {why}", hanging="  "), err=err)


def _print_plan(jobs: Any) -> None:
    from porter.remote.address import shown

    rows = [
        (p.job.name, p.job.command, "at an address" if p.nbytes is None else f"{p.nbytes:,} bytes",
         f"about {p.seconds:.0f} s" if p.nbytes is not None else "", shown(p.job.output))
        for p in jobs
    ]  # fmt: skip
    click.echo(columns(rows))
    known = sum(p.nbytes or 0 for p in jobs)
    remote = sum(p.nbytes is None for p in jobs)
    more = f", and the time to fetch {remote} of them" if remote else ""
    say(f"{len(jobs)} jobs, {known:,} bytes, about {sum(p.seconds for p in jobs):.0f} s{more}")
