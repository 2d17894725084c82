"""Start every service in this process: `python -m tapeline.host`."""

import gc


def main() -> None:
    """Import the services and serve."""
    # What imports make lives for ever: looking through it again and again costs a tenth of the start.
    gc.disable()
    from tapeline.assets import app as assets
    from tapeline.hosting import run
    from tapeline.runs import app as runs
    from tapeline.vault import app as vault

    gc.freeze()
    gc.enable()
    run({"runs": runs.build, "assets": assets.build, "vault": vault.build})


if __name__ == "__main__":
    main()
