"""Callbacks that interfere with the store of a mirror while a run trains."""

from pathlib import Path

from pydantic import Field

from noether.config.components import CallBackBaseConfig
from noether.core.callbacks.periodic import PeriodicCallback
from noether.runs.mirror.store import Store


class OutageConfig(CallBackBaseConfig):
    folder: str = Field(description="Folder of the store.")
    begin: int = Field(description="Update after which a file lies in its place.")
    end: int = Field(description="Update after which it is there again.")


class Outage(PeriodicCallback):
    """Takes a store away between two updates, once the upload has noticed each change."""

    def __init__(self, callback_config: OutageConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.folder, self.begin, self.end = Path(callback_config.folder), callback_config.begin, callback_config.end

    def periodic_callback(self, *, update_counter):
        aside = self.folder.with_name("aside")
        if update_counter.update == self.begin:
            wait_for(self.folder.exists)
            self.folder.rename(aside)
            self.folder.write_text("")
        if update_counter.update == self.end:
            wait_for(lambda: "Training is not affected" in Path("runs/mine/log.txt").read_text())
            self.folder.unlink()
            aside.rename(self.folder)


class ClaimsConfig(CallBackBaseConfig):
    address: str = Field(description="Address of the mirror.")
    at_update: int = Field(description="Update after which another attempt begins.")


class Claims(PeriodicCallback):
    """Makes another attempt the owner of the mirror, as a start on another machine does."""

    def __init__(self, callback_config: ClaimsConfig, **kwargs):
        super().__init__(callback_config, **kwargs)
        self.address, self.at_update = callback_config.address, callback_config.at_update

    def periodic_callback(self, *, update_counter):
        if update_counter.update == self.at_update:
            store = Store(self.address, "mine")
            wait_for(lambda: store.owner() is not None)
            store.claim("f" * 32)


def wait_for(condition):
    from threading import Event

    for _ in range(2000):
        if condition():
            return
        Event().wait(0.01)
    raise TimeoutError
