"""A client of a Frostkeep node in another language, from the proto file alone.

    client.py GENERATED ADDRESS SERVING_CERTIFICATE KEY CERTIFICATE (status | round REQUEST.json)

GENERATED holds the modules that protoc made. Prints one JSON object: {"answer": ..} or {"refusal": ..}.
"""

import json
import sys

generated, address, serving_certificate, key, certificate, verb = sys.argv[1:7]
sys.path.insert(0, generated)

import grpc  # noqa: E402

import error_details_pb2  # noqa: E402
import frostkeep_pb2 as frostkeep  # noqa: E402
import frostkeep_pb2_grpc as services  # noqa: E402


def read(path):
    with open(path, "rb") as file:
        return file.read()


def refusal(error):
    """What google.rpc says of a refusal."""
    out = {"code": error.code().name, "problem": error.details()}
    trailers = {name: value for name, value in error.trailing_metadata() or ()}
    status = error_details_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b""))
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            out.update(reason=info.reason, domain=info.domain, metadata=dict(info.metadata))
        if detail.Unpack(retry):
            out["retry_ms"] = retry.retry_delay.ToMilliseconds()
    return {"refusal": out}


def status(channel):
    reply = services.NodeStub(channel).Status(frostkeep.StatusRequest(), timeout=10)
    return {"name": reply.name, "phase": frostkeep.Phase.Name(reply.phase), "ready": reply.ready}


def start_sign_round(channel, path):
    asked = json.loads(read(path))
    attempt = asked["attempt"]
    request = frostkeep.StartSignRoundRequest(
        session=frostkeep.SessionRef(session_id=asked["session"], key_group=bytes.fromhex(asked["key_group"])),
        member=asked["member"],
        subject=frostkeep.Subject(message=bytes.fromhex(asked["message"])),
        attempt=frostkeep.AttemptContext(
            number=attempt["number"],
            coordinator=attempt["coordinator"],
            included=attempt["included"],
            included_fingerprint=bytes.fromhex(attempt["included_fingerprint"]),
            attempt_id=bytes.fromhex(attempt["attempt_id"]),
        ),
        signing_package=bytes.fromhex(asked["signing_package"]),
    )
    reply = services.SignerStub(channel).StartSignRound(request, timeout=30)
    return {"durable": reply.durable, "round": reply.round.SerializeToString().hex()}


def main():
    credentials = grpc.ssl_channel_credentials(
        root_certificates=read(serving_certificate), private_key=read(key), certificate_chain=read(certificate)
    )
    # There is no authority: the node's own certificate is the root, and its name is always this one.
    options = [("grpc.ssl_target_name_override", "frostkeep")]
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            answer = status(channel) if verb == "status" else start_sign_round(channel, sys.argv[7])
            print(json.dumps({"answer": answer}))
        except grpc.RpcError as error:
            print(json.dumps(refusal(error)))


main()
