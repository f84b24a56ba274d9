# porter with both frameworks, their CPU builds:
#     docker build -f docker/cpu.Dockerfile -t porter .
#     docker run --rm -v "$PWD:/work" porter convert shunted-s --from paddle --to torch
FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.12-slim-bookworm
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN pip install --no-cache-dir -c /wheels/constraints.txt torch \
        --index-url https://download.pytorch.org/whl/cpu \
    && pip install --no-cache-dir -c /wheels/constraints.txt \
        "$(ls /wheels/*.whl)[paddle,onnx-trace,fast,images,remote]" \
    && rm -r /wheels \
    && useradd --create-home --uid 1000 porter
USER 1000
WORKDIR /work
ENTRYPOINT ["porter"]
CMD ["--help"]
