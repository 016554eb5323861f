"""The ceiling: uvicorn + orjson + onnxruntime in one process, with nothing else. ``python -m loadtests.ceiling MODEL``.

It parses one fixed request shape, runs each request alone and answers; no routing, no limits, no metrics, no second
process. What a gateway can lose against it is what its features cost.
"""

import argparse
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import numpy as np
import onnxruntime
import orjson
import uvicorn

Message = MutableMapping[str, Any]


def application(path: str) -> Callable[..., Awaitable[None]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    async def answer(scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Any]) -> None:
        body = (await receive())["body"]
        tensor = orjson.loads(body)["inputs"][0]
        values = np.array(tensor["data"], np.float32).reshape(tensor["shape"])
        label, probabilities = session.run(None, {"x": values})
        outputs = [
            {"name": "label", "datatype": "INT64", "shape": label.shape, "data": label},
            {"name": "probabilities", "datatype": "FP32", "shape": probabilities.shape, "data": probabilities.ravel()},
        ]
        document = {"model_name": "m", "model_version": "1", "outputs": outputs}
        text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(text))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(
        application(arguments.model),
        port=arguments.port,
        lifespan="off",
        access_log=False,
        log_level="warning",
        http="httptools",
        loop="uvloop",
    )


if __name__ == "__main__":
    main()
