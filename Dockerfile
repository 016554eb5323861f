# Gaugeway as an image.
#
#   docker build --tag gaugeway .                            # inference on CPUs
#   docker build --build-arg VARIANT=gpu --tag gaugeway:gpu .
#   docker run --init --read-only --tmpfs /tmp --shm-size 256m --cap-drop ALL --security-opt no-new-privileges \
#       --volume gaugeway:/data --publish 127.0.0.1:8080:8080 --env GAUGEWAY_ALLOW_OPEN=1 gaugeway
#
# What is written goes to three places: /data (registry, artifacts, logs, the rings), /tmp (Ray's session, sockets) and
# /dev/shm (Ray's object store, 80 MiB); everything else may be read-only. docs/operations.md says more.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
ARG VARIANT=cpu

FROM ${PYTHON_IMAGE} AS wheels
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY deploy/container/build.lock deploy/container/extras.lock requirements.lock ./
RUN python -m pip install --require-hashes --requirement build.lock
RUN python -m pip wheel --require-hashes --no-build-isolation --wheel-dir /wheels \
    --requirement requirements.lock --requirement extras.lock
COPY pyproject.toml README.md ./
COPY serving serving
COPY monitors monitors
RUN python -m pip wheel --no-build-isolation --no-deps --no-index --wheel-dir /wheels .

# Of the wheels only what serving needs; those of the demo stay behind. The ONNX Runtime that knows CUDA is a package of
# the same name inside, so the other has to go. (Not a stage for each variant: older builders leave out stages whose
# names have arguments in them.)
FROM wheels AS environment
ARG VARIANT
RUN python -m venv --without-pip /opt/gaugeway
RUN python -m pip --python /opt/gaugeway install --no-index --find-links /wheels "gaugeway[postgres,objectstore]"
COPY deploy/container/gpu.lock ./
RUN if [ "${VARIANT}" = gpu ]; then \
        python -m pip --python /opt/gaugeway uninstall --yes onnxruntime \
        && python -m pip --python /opt/gaugeway install --require-hashes --requirement gpu.lock; \
    fi

FROM ${PYTHON_IMAGE} AS runtime
ARG VARIANT
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Gaugeway" \
      org.opencontainers.image.description="A gateway that gauges: versioned ONNX models on Ray Serve, with monitors" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      gaugeway.variant="${VARIANT}"
# Numbers, not names, because Kubernetes' runAsNonRoot looks at the number. The links are for login shells, which set
# PATH anew: KubeRay starts Ray in one.
RUN groupadd --gid 10001 gaugeway \
    && useradd --uid 10001 --gid gaugeway --home-dir /data --no-create-home --shell /usr/sbin/nologin gaugeway \
    && install --directory --owner gaugeway --group gaugeway --mode 0700 /data \
    && ln --symbolic /opt/gaugeway/bin/gaugeway /opt/gaugeway/bin/ray /usr/local/bin/
COPY deploy/container/gaugeway.toml /etc/gaugeway/gaugeway.toml
COPY --from=environment /opt/gaugeway /opt/gaugeway
# HOME is where Ray keeps the token of its cluster.
ENV PATH=/opt/gaugeway/bin:/usr/local/bin:/usr/bin:/bin HOME=/data USER=gaugeway \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /etc/gaugeway
USER 10001:10001
VOLUME ["/data"]
# data plane, metrics of the node, metrics of the controller; the admin API listens on loopback
EXPOSE 8080 9410 9411
# `up` drains on it
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s --retries=3 CMD ["python", "-m", "serving.health"]
ENTRYPOINT ["gaugeway"]
CMD ["up"]
