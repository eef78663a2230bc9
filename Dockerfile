# The server of audio_api, and its workers: docker build -t audio-api .
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY audio_api audio_api
RUN python -m venv /opt/audio-api \
 && /opt/audio-api/bin/pip install --no-cache-dir '.[audiobook,formats,offline,redis,server,store,telemetry]'

FROM python:3.13-slim
COPY --from=build /opt/audio-api /opt/audio-api
ENV PATH=/opt/audio-api/bin:$PATH OUTPUT_DIR=/data ENABLE_STRUCTURED_LOGGING=true
RUN useradd --uid 10001 --create-home audio && install -d -o audio /data
USER audio
WORKDIR /home/audio
VOLUME /data
EXPOSE 8880
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8880/health')"]
# It refuses to serve other machines without SERVER_API_KEYS. What speaks is finished after SIGTERM.
CMD ["audio-api", "serve", "--host", "0.0.0.0"]
