# One image for every process: migrate, worker, beat, Flower, the HTTP service and the command line.
FROM python:3.11-slim AS build
WORKDIR /src
RUN python -m venv /opt/usage-worker
COPY pyproject.toml README.md LICENSE ./
COPY migrations migrations
COPY worker worker
RUN /opt/usage-worker/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /dist . \
 && /opt/usage-worker/bin/pip install --no-cache-dir "$(echo /dist/*.whl)[http]"

FROM python:3.11-slim
ENV PATH=/opt/usage-worker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    USAGE_LOG_FORMAT=json
# Beat keeps its schedule in this folder. A new volume that is mounted here gets the folder's owner.
RUN useradd --system --uid 10001 --no-create-home usage \
 && install --directory --owner=usage --group=usage /var/lib/usage-worker
COPY --from=build /opt/usage-worker /opt/usage-worker
WORKDIR /var/lib/usage-worker
USER usage
CMD ["usage-worker", "--help"]
