FROM python:3.12-slim AS build

# requirements-otel.lock also has the packages for traces.
ARG LOCK=requirements.lock
WORKDIR /app
COPY ${LOCK} .
RUN python -m venv --without-pip /app/.venv \
    && pip --python /app/.venv/bin/python install --no-cache-dir --disable-pip-version-check \
        --require-hashes --only-binary :all: -r ${LOCK}
COPY pyproject.toml gunicorn.conf.py wsgi.py ./
COPY migrations migrations
COPY inventory inventory
RUN python -m compileall -q inventory migrations && rm ${LOCK}


FROM python:3.12-slim

# The root file system can be read-only. /data is for an SQLite database, the default: a DATABASE_URL in the image would
# collide with a DATABASE_URL_FILE.
COPY --from=build /app /app
RUN useradd --uid 10001 --home-dir /data --no-create-home --shell /usr/sbin/nologin inventory \
    && install --directory --owner=inventory --group=inventory /data \
    && ln -s /data /app/instance
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 8000

# Inside a container os.cpu_count() is that of the host, so the number of workers is set here.
# glibc keeps freed memory per thread. With a fixed mmap threshold, large blocks are returned to the system at once
# (worker after twelve 1 MiB requests: 117–134 MiB instead of 168–184).
ENV PATH=/app/.venv/bin:$PATH \
    FLASK_APP=wsgi \
    INVENTORY_WORKERS=2 \
    MALLOC_MMAP_THRESHOLD_=131072 \
    PYTHONUNBUFFERED=1

# Without the proxy of the environment, if it has one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import ProxyHandler, build_opener; build_opener(ProxyHandler({})).open('http://127.0.0.1:8000/health/live', timeout=3)"]

# Before the first start and after each update: docker run … inventory flask db upgrade
# Docker kills a container 10 s after SIGTERM; by then gunicorn has given up requests that do not end.
CMD ["gunicorn", "wsgi:app", "-b", "0.0.0.0:8000", "--graceful-timeout", "8"]
