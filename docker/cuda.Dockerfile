# porter with both frameworks on NVIDIA GPUs; the CUDA libraries come with their packages:
#     docker build -f docker/cuda.Dockerfile -t porter:cuda .
#     docker run --rm --gpus all -v "$PWD:/work" porter:cuda \
#         verify vit-base-p16-224 a.pth b.pdparams --device cuda --python paddle=/opt/paddle/bin/python
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Each framework asks for CUDA libraries of its own version: each has its environment.
RUN pip install --no-cache-dir -c /wheels/constraints.txt \
        "$(ls /wheels/*.whl)[onnx-trace,fast,images,remote]" \
    && python -m venv /opt/paddle \
    && /opt/paddle/bin/pip install --no-cache-dir "paddlepaddle-gpu==3.3.1" \
        --index-url https://www.paddlepaddle.org.cn/packages/stable/cu126/ \
        --extra-index-url https://pypi.org/simple \
    && grep -v paddlepaddle /wheels/constraints.txt > /wheels/paddle.txt \
    && /opt/paddle/bin/pip install --no-cache-dir -c /wheels/paddle.txt setuptools /wheels/*.whl \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 porter
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 1000
WORKDIR /work
ENTRYPOINT ["porter"]
CMD ["--help"]
