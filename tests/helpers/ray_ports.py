"""Calls to Ray's gRPC services without a token."""

import grpc

METHODS = (
    "ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "ray.rpc.InternalKVGcsService/InternalKVKeys",
    "ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "ray.rpc.NodeManagerService/GetNodeStats",
    "ray.rpc.NodeManagerService/GetSystemConfig",
    "ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "ray.rpc.ObjectManagerService/FreeObjects",
    "ray.rpc.ObjectManagerService/Pull",
    "ray.rpc.RayletDriver/ClusterInfo",
    "ray.rpc.ReporterService/GetTraceback",
    "ray.rpc.LogService/ListLogs",
    "ray.rpc.RuntimeEnvService/GetRuntimeEnvsInfo",
)
"""At least one of each service, called with an empty request."""

REFUSALS = {"UNAUTHENTICATED", "UNIMPLEMENTED", "UNAVAILABLE"}
"""Of a port that has the method, of one that does not, and of one without gRPC."""


def grpc_answer(address: str, method: str) -> str:
    """Call a method; return the name of the status code."""
    with grpc.insecure_channel(address) as channel:
        ask = channel.unary_unary(f"/{method}", request_serializer=bytes, response_deserializer=bytes)
        try:
            ask(b"", timeout=5)
        except grpc.RpcError as error:
            return error.code().name  # type: ignore[attr-defined]
        return "OK"
