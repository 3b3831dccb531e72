# soundvid with its Dagster code location. compose.yaml and docs/deploy/kubernetes use it for all their programs.
#   docker build -t soundvid .
#   docker build -t soundvid-gpu --build-arg EXTRAS=dagster,postgres,denoise,train,kubernetes .      (docs/deploy.md)
FROM python:3.11-slim-bookworm

ARG EXTRAS=dagster,postgres,denoise
WORKDIR /opt/soundvid
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY soundvid ./soundvid
RUN pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"
COPY assets ./assets
COPY pipelines ./pipelines
COPY docs/deploy/team.yaml /opt/dagster/dagster.yaml
COPY docs/deploy/compose/workspace.yaml /opt/dagster/workspace.yaml
RUN useradd --uid 1000 --create-home soundvid \
    && mkdir -p /data /var/lib/dagster/logs && chown -R soundvid /data /opt/dagster /var/lib/dagster
USER soundvid
ENV PYTHONPATH=/opt/soundvid PYTHONUNBUFFERED=1 SOUNDVID_HOME=/data DAGSTER_HOME=/opt/dagster DAGSTER_DISABLE_TELEMETRY=1
