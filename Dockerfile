# Two images from one file: `api` has no torch, `worker` has no FastAPI process.
#   docker build --target api -t camserve-api .
#   docker build --target worker -t camserve-worker .
# For CPU workers, give pip the index of torch's CPU wheels, which are gigabytes smaller:
#   docker build --target worker --build-arg TORCH_INDEX=URL -t camserve-worker .
FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
ENV CAMSERVE_LOG_FORMAT=json
RUN useradd --create-home --uid 10001 camserve
WORKDIR /srv/camserve
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY camserve camserve
COPY app app
COPY workers workers

FROM base AS api
RUN pip install --constraint constraints.txt '.[telemetry]'
USER camserve
# on all addresses of the container: it asks for CAMSERVE_API_KEYS_FILE or CAMSERVE_ALLOW_ANONYMOUS
ENV CAMSERVE_HOST=0.0.0.0 CAMSERVE_PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-m", "app.health", "livez"]
CMD ["python", "-m", "app"]

FROM base AS worker
# torch compiles models with it, which makes them faster; see docs/operating.md
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
ARG TORCH_INDEX=""
RUN pip install ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} --constraint constraints.txt '.[worker,onnx,telemetry,timm,torchvision]'
COPY models models
RUN mkdir /srv/cache /srv/state && chown camserve /srv/cache /srv/state
USER camserve
ENV CAMSERVE_MODELS_DIR=/srv/camserve/models CAMSERVE_STATE_DIR=/srv/state HF_HOME=/srv/cache
VOLUME /srv/cache /srv/state
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s \
    CMD ["python", "-m", "workers.health"]
CMD ["python", "-m", "workers"]
