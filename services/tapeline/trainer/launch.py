"""Starting a child process and talking to it: the agent's end of the pipe."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from tapeline.errors import TapelineError
from tapeline.trainer import pipe, sandbox

OUTPUT_KEPT = 1 << 20


class Child:
    """One child process, in its own process group and folder."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        folder: Path,
        reader: asyncio.StreamReader,
        transport: asyncio.BaseTransport,
        writer: int,
        *,
        device: str,
        backend: str,
    ) -> None:
        self.pid = process.pid
        self.folder = folder
        self.device = device
        self.backend = backend
        self._process = process
        self._reader = reader
        self._transport = transport
        self._writer = writer
        self._n = 0
        self._output = bytearray()
        self._drain = asyncio.create_task(self._keep_output())

    @classmethod
    async def launch(cls, work: Path, *, device: str, backend: str, threads: int) -> Self:
        """A new child that waits for its `start` line; its folder is new and private.

        Raises
        ------
        TapelineError
            `internal` when the process cannot be started.
        """
        work.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = Path(tempfile.mkdtemp(prefix="child-", dir=work))
        from_agent, to_child = os.pipe()
        from_child, to_agent = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-m", "tapeline.trainer.child",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                cwd=folder,
                env=sandbox.environment(
                    folder, pipe=(from_agent, to_agent), device=device, backend=backend, threads=threads
                ),
                pass_fds=(from_agent, to_agent),
                process_group=0,
            )  # fmt: skip
        except OSError as error:
            os.close(to_child)
            os.close(from_child)
            shutil.rmtree(folder, ignore_errors=True)
            raise TapelineError(f"a child process cannot be started: {error}", code="internal") from error
        finally:
            os.close(from_agent)
            os.close(to_agent)
        reader = asyncio.StreamReader(limit=pipe.MAX_LINE)
        os.set_blocking(to_child, False)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(from_child, "rb", 0)
        )
        return cls(process, folder, reader, transport, to_child, device=device, backend=backend)

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """What the child says, until its end of the pipe closes.

        Raises
        ------
        TapelineError
            `invalid` for a line that breaks the protocol.
        """
        decoder = pipe.Decoder(pipe.FROM_CHILD)
        while True:
            try:
                line = await self._reader.readline()
            except ValueError as error:
                raise TapelineError("protocol: a line longer than 64 KiB", code="invalid") from error
            if not line:
                return
            yield decoder.decode(line)

    def send(self, kind: str, **fields: Any) -> None:
        """Tell the child something; a child that is gone or does not listen is not an error here.

        The agent never waits for a child: a pipe that is full belongs to one that does not read, which the
        grace period or the stall time-out will end.
        """
        line = pipe.encode(self._n + 1, kind, fields)
        try:
            written = os.write(self._writer, line)
        except (BrokenPipeError, BlockingIOError):
            return
        if written == len(line):
            self._n += 1

    def signal(self, number: signal.Signals) -> None:
        """Signal the whole process group while the child lives."""
        if self._process.returncode is None:
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return

    @property
    def is_alive(self) -> bool:
        """Whether the process has not been seen to end."""
        return self._process.returncode is None

    async def wait(self) -> int:
        """The exit code, or the negative number of the signal, once the process has ended."""
        code = await self._process.wait()
        await self._drain
        return code

    def output(self, size: int = 4096) -> str:
        """The end of what the child printed."""
        return bytes(self._output[-size:]).decode(errors="replace")

    def close(self) -> None:
        """Release the pipes and remove the folder of a child that has ended."""
        self._transport.close()
        if self._writer >= 0:
            os.close(self._writer)
            self._writer = -1
        shutil.rmtree(self.folder, ignore_errors=True)

    async def kill(self) -> None:
        """End the process group at once and clean up after it."""
        self.signal(signal.SIGKILL)
        await self.wait()
        self.close()

    async def _keep_output(self) -> None:
        stream = self._process.stdout
        if stream is None:
            return
        while chunk := await stream.read(1 << 16):
            self._output += chunk
            if len(self._output) > 2 * OUTPUT_KEPT:
                del self._output[:-OUTPUT_KEPT]
