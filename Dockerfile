# The server in a container: no root, nothing written to disk, so `docker run --read-only` will do.
# The release step is `realtime migrate` in the same image.

FROM python:3.11-slim AS build
WORKDIR /build
COPY requirements.lock .
RUN python -m venv /opt/rowcast \
 && /opt/rowcast/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/rowcast/bin/pip install --no-cache-dir --no-deps . ./clients/python \
 && /opt/rowcast/bin/python -m compileall -q /opt/rowcast/lib

FROM python:3.11-slim
COPY --from=build /opt/rowcast /opt/rowcast
ENV PATH=/opt/rowcast/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 LOG_FORMAT=json
USER 10001:10001
WORKDIR /opt/rowcast
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ.get('PORT', '8000') + '/health', timeout=4)"]
CMD ["realtime", "serve"]
