"""Traces through a real OpenTelemetry collector, Rotel: it takes them by gRPC and by HTTP and passes them on to a program of ours,
which reads them with OpenTelemetry's own types."""

import gzip
import http.server
import os
import threading

import openai
import rotel
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from checks import check, expect, expect_equal, wait_until
from fleet import Front, Process, free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
CONFIG = """routes: [{{ name: models, upstream: fleet }}]
upstreams:
  fleet: {{ kind: ollama, servers: [{{ name: real, url: "{url}" }}] }}
telemetry: {{ tracing: {{ url: "{collector}", protocol: {protocol}, interval: 100ms, service_name: edge }} }}
"""


class Sink:
    """Where the collector passes on what it was told."""

    def __init__(self):
        self.spans, self.services = [], set()
        sink = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def body(self):
                if "Content-Length" in self.headers:
                    return self.rfile.read(int(self.headers["Content-Length"]))
                pieces = []
                while size := int(self.rfile.readline(), 16):
                    pieces.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(pieces)

            def do_POST(self):
                message = ExportTraceServiceRequest()
                zipped = self.headers.get("Content-Encoding") == "gzip"
                message.ParseFromString(gzip.decompress(self.body()) if zipped else self.body())
                for part in message.resource_spans:
                    sink.services |= {a.value.string_value for a in part.resource.attributes if a.key == "service.name"}
                    sink.spans += [span for scope in part.scope_spans for span in scope.spans]
                self.send_response(200)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = "http://127.0.0.1:%d" % self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


def attributes(span):
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


@check("Rotel, a real collector, takes traces by gRPC and by HTTP, with what each stream used")
def traces(world):
    sink, ports = Sink(), {"grpc": free_port(), "http": free_port()}
    program = os.path.join(os.path.dirname(rotel.__file__), "rotel-agent")
    collector = Process("rotel", [
        program, "start", "--otlp-grpc-endpoint", f"127.0.0.1:{ports['grpc']}",
        "--otlp-http-endpoint", f"127.0.0.1:{ports['http']}", "--batch-timeout", "100ms",
        "--exporter", "otlp", "--otlp-exporter-protocol", "http", "--otlp-exporter-compression", "none",
        "--otlp-exporter-endpoint", sink.url,
    ], world.directory, dict(os.environ))
    world.processes.append(collector)
    try:
        for protocol, port in ports.items():
            told_by(world, sink, protocol, f"http://127.0.0.1:{port}")
    finally:
        collector.stop()
        sink.stop()


def told_by(world, sink, protocol, collector):
    sink.spans.clear()
    text = CONFIG.format(url=world.a.url, collector=collector, protocol=protocol)
    front = world.keep(Front(world.binary, f"traced-{protocol}", world.directory, text))
    try:
        client = openai.OpenAI(base_url=f"{front.url}/v1", api_key="none", default_headers={"traceparent": PARENT})
        stream = client.chat.completions.create(
            model="tiny:1", messages=[{"role": "user", "content": "a word of mine"}], stream=True, max_tokens=8,
            stream_options={"include_usage": True})
        used = [chunk.usage for chunk in stream if chunk.usage][-1]
        wait_until(lambda: len(sink.spans) >= 2, 30, f"two spans by {protocol}")
    finally:
        front.process.stop()
    expect("edge" in sink.services, f"the name of the service: {sink.services}")
    expect_equal({span.trace_id.hex() for span in sink.spans}, {TRACE}, "the trace")
    whole = next(span for span in sink.spans if span.kind == Span.SPAN_KIND_SERVER)
    attempt = next(span for span in sink.spans if span.kind == Span.SPAN_KIND_CLIENT)
    expect_equal(whole.parent_span_id.hex(), PARENT.split("-")[2], "the parent of the request")
    expect_equal(attempt.parent_span_id, whole.span_id, "the parent of the attempt")
    expect(whole.start_time_unix_nano <= attempt.start_time_unix_nano < attempt.end_time_unix_nano, "the times are in order")
    told = attributes(attempt)
    expect_equal((attempt.name.split()[0], told["gen_ai.operation.name"], told["gen_ai.provider.name"]),
                 ("chat", "chat", "ollama"), "what was done")
    expect_equal((told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]),
                 (used.prompt_tokens, used.completion_tokens), "the tokens")
    expect(0 < told["gen_ai.response.time_to_first_chunk"] < 60, "the time to the first chunk")
    expect("a word of mine" not in str(sink.spans), "no content")
