# One image for web server, daemon and runs; see docs/how-to/deploy.md. A starting point: it was not built for 0.1.0.
FROM python:3.12-slim

ENV PIP_NO_CACHE_DIR=1 \
    PYTHONUNBUFFERED=1 \
    DAGSTER_DISABLE_TELEMETRY=yes \
    DAGSTER_HOME=/var/lib/trellis/dagster \
    TRELLIS_HOME=/var/lib/trellis \
    TRELLIS_STORAGE__URL=file:///var/lib/trellis/output \
    NUMBA_CACHE_DIR=/var/cache/trellis

WORKDIR /opt/trellis
COPY pyproject.toml README.md LICENSE ./
COPY constraints ./constraints
COPY trellis_pipeline ./trellis_pipeline
COPY assets ./assets
COPY resources ./resources
RUN pip install -c constraints/ci.txt '.[matte,s3,postgres]' \
    && useradd --system trellis \
    && mkdir -p "$DAGSTER_HOME" "$NUMBA_CACHE_DIR" \
    && chown -R trellis /var/lib/trellis "$NUMBA_CACHE_DIR"
COPY trellis.toml workspace.yaml dagster.yaml ./
COPY catalogs ./catalogs
COPY --chown=trellis dagster.yaml /var/lib/trellis/dagster/dagster.yaml

USER trellis
VOLUME /var/lib/trellis
EXPOSE 3000
# The daemon is the same image with: dagster-daemon run -m trellis_pipeline.definitions
CMD ["dagster-webserver", "-h", "0.0.0.0", "-p", "3000", "-m", "trellis_pipeline.definitions"]
