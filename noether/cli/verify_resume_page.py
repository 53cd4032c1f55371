"""What `noether verify-resume` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from noether.cli.table import print_table

if TYPE_CHECKING:
    from noether.runs.verify.verify_resume import Report


def print_report(report: Report) -> None:
    """Print what was compared where, and what differs."""
    print(f"{report.name}: {report.updates} updates straight and interrupted, {report.updates_per_epoch} an epoch")
    print_table(
        [
            {"point": point.where, "compared": point.what, "result": "differs" if point.difference else "equal"}
            for point in report.points
        ]
    )
    for place in report.not_compared:
        print(f"not compared, because it is another in every run: {place}")
    for point in report.points:
        if point.difference:
            more = f" (and {point.more} more {'file' if point.more == 1 else 'files'})" if point.more else ""
            print(f"\n{point.where}{more}\n  {point.difference}")
    if any(point.before_any and point.difference for point in report.points):
        print("\nthis differs before anything was interrupted: the run itself is not repeatable")
    if report.forgotten:
        print()
        for text in report.forgotten:
            print(text)
        print("  help: return it from state_dict(), and take it back in load_state_dict()")
    print("\nthe interrupted run is the straight one, bit by bit" if report.is_equal else "\nthe runs differ")
