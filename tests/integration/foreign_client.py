#!/usr/bin/env python3
"""Streams an answer with a gRPC client that knows nothing of Octet but what reflection tells it.

    foreign_client.py --server 127.0.0.1:7411 [--prompt TEXT | --ids 5,6,7]
    foreign_client.py --octet build/octet      # starts a small cluster of its own and ends it

Needs grpcio, grpcio-reflection and protobuf; no generated code. Exit status 1 if anything is not as
the wire contract says.
"""

import argparse
import pathlib
import re
import signal
import subprocess
import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/golden/models/mixtral-f32"
TIMEOUT_S = 120


def fail(message):
    sys.exit(f"foreign client: {message}")


def stream_answer(address, prompt, ids, tokens):
    channel = grpc.insecure_channel(address)
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    for name in ("octet.v1.Inference", "grpc.health.v1.Health"):
        if name not in services:
            fail(f"reflection does not list {name}: {sorted(services)}")
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("octet.v1.Inference").FindMethodByName("Generate")
    request = message_factory.GetMessageClass(method.input_type)()
    if prompt is not None:
        request.text = prompt
    else:
        request.token_ids.ids.extend(ids)
    request.sampling.temperature = 0
    request.stop.max_tokens = tokens
    request.stop.ignore_eos = True
    call = channel.unary_stream(
        "/octet.v1.Inference/Generate",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    events, received, text = [], [], ""
    for response in call(request, timeout=TIMEOUT_S, wait_for_ready=True):
        event = response.WhichOneof("event")
        events.append(event)
        if event == "started":
            print(f"model {response.started.model}, request {response.started.request_id}")
        elif event == "chunk":
            if response.chunk.index != len(received):
                fail(f"chunk starts at {response.chunk.index}, expected {len(received)}")
            received.extend(response.chunk.token_ids)
            text += response.chunk.text
    if events[0] != "started" or events[-1] != "finished" or set(events[1:-1]) != {"chunk"}:
        fail(f"events in the wrong order: {events}")
    if len(received) != tokens:
        fail(f"{len(received)} tokens, expected {tokens}")
    print(f"{len(received)} tokens in {len(events) - 2} chunks: {text if text else received}")
    channel.close()
    return received


def with_own_cluster(octet):
    command = [octet, "up", "--model", str(MODEL), "--experts", "f32", "--attention", "f32",
               "--workers", "2", "--replication", "2", "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout:
            match = re.search(r"ready on (\S+)", line)
            if match:
                break
        else:
            fail("the cluster did not become ready")
        first = stream_answer(match.group(1), None, [5, 6, 7], 32)
        if first != stream_answer(match.group(1), None, [5, 6, 7], 32):
            fail("the same greedy request gave other tokens")
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=TIMEOUT_S)
    if code != 0:
        fail(f"the cluster ended with {code}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--octet", help="binary to start a cluster with")
    parser.add_argument("--server", help="router of a running cluster")
    parser.add_argument("--prompt")
    parser.add_argument("--ids", default="5,6,7")
    parser.add_argument("--max-tokens", type=int, default=32)
    args = parser.parse_args()
    if args.server:
        ids = [int(i) for i in args.ids.split(",")]
        stream_answer(args.server, args.prompt, ids, args.max_tokens)
    elif args.octet:
        with_own_cluster(args.octet)
    else:
        parser.error("--server or --octet is needed")
    print("OK")


if __name__ == "__main__":
    main()
