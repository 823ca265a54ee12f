"""Pretended Ollama servers, as many as wanted in one thread: for views of fleets that no machine here could run."""

import asyncio
import contextlib
import json
import threading
import time

REASONS = {200: "OK", 404: "Not Found", 500: "Internal Server Error"}


class Host:
    """One server: its models with their sizes, and those of them in memory."""

    def __init__(self, models, loaded=(), version="0.33.0"):
        self.version = version
        self.models = dict(models)
        self.loaded = {name: self.models[name] for name in loaded}
        self.port = None
        self.asked = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"


class Hosts:
    """Hosts that answer from a thread of their own; `gate` holds back the tokens of all of them."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.loop = asyncio.new_event_loop()
        self.gate = threading.Event()
        self.gate.set()
        self.token_time, self.tokens = 0.005, 8
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        asyncio.run_coroutine_threadsafe(self.begin(), self.loop).result(30)

    async def begin(self):
        for host in self.hosts:
            server = await asyncio.start_server(lambda r, w, host=host: self.serve(host, r, w), "127.0.0.1", 0)
            host.port = server.sockets[0].getsockname()[1]

    async def end(self):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0)

    def stop(self):
        self.gate.set()
        asyncio.run_coroutine_threadsafe(self.end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)

    async def serve(self, host, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                line, *fields = head.strip().split("\r\n")
                fields = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                method, path, _ = line.split(" ", 2)
                await self.answer(host, writer, method, path, json.loads(body or b"{}"))
        writer.close()

    async def answer(self, host, writer, method, path, body):
        def row(name, size):
            return {"name": name, "model": name, "size": size, "size_vram": size, "digest": f"{hash(name) & (1 << 255):064x}",
                    "expires_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 300)), "details": {}}

        if path == "/api/embed":
            return await self.embed(host, writer, body)
        if path in ("/api/generate", "/api/chat"):
            return await self.infer(host, writer, body)
        found = {
            "/": "Ollama is running",
            "/api/version": {"version": host.version},
            "/api/tags": {"models": [row(*model) for model in host.models.items()]},
            "/api/ps": {"models": [row(*model) for model in host.loaded.items()]},
        }.get(path)
        return await self.send(writer, 404 if found is None else 200, found or {"error": "no such path"})

    async def infer(self, host, writer, body):
        model = body.get("model", "")
        host.asked.append(model)
        if model not in host.models:
            return await self.send(writer, 404, {"error": f"model '{model}' not found"})
        if body.get("keep_alive") == 0 and not body.get("prompt"):
            host.loaded.pop(model, None)
            return await self.send(writer, 200, {"model": model, "response": "", "done": True, "done_reason": "unload"})
        host.loaded[model] = host.models[model]
        tokens = self.tokens if body.get("prompt") or body.get("messages") else 0
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(tokens + 1):
            while tokens and not self.gate.is_set():
                await asyncio.sleep(0.02)
            last = number == tokens
            line = {"model": model, "response": "" if last else "word ", "done": last}
            if last:
                line |= {"done_reason": "stop" if tokens else "load", "prompt_eval_count": 5, "eval_count": tokens,
                         "total_duration": 10**8, "eval_duration": 10**7, "prompt_eval_duration": 10**6}
            data = json.dumps(line).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(data), data))
            await writer.drain()
            await asyncio.sleep(0 if last else self.token_time)
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def embed(self, host, writer, body):
        model, inputs = body.get("model", ""), body.get("input", [])
        inputs = [inputs] if isinstance(inputs, str) else inputs
        host.asked.append(model)
        host.loaded[model] = host.models[model]
        # Written as Ollama writes it: what is written otherwise is not kept.
        answer = {"model": model, "embeddings": [[0.5, len(text) + 0.25] for text in inputs], "total_duration": 10**6,
                  "load_duration": 10**5, "prompt_eval_count": len(inputs)}
        await self.send(writer, 200, json.dumps(answer, separators=(",", ":")))

    async def send(self, writer, status, value):
        data = value.encode() if isinstance(value, str) else json.dumps(value).encode()
        writer.write(f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: application/json\r\n"
                     f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        await writer.drain()

