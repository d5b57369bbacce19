# Coordinator and node in one image: docker run … potluck serve MODEL, or docker run … potluck join URL.

FROM python:3.11-slim-bookworm AS build
RUN python -m venv /opt/potluck
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/potluck/bin/pip install --no-cache-dir -c constraints.txt '.[postgres]'

FROM python:3.11-slim-bookworm
RUN useradd --create-home --uid 1000 potluck \
    && install --directory --owner potluck --mode 700 /data
COPY --from=build /opt/potluck /opt/potluck
ENV PATH="/opt/potluck/bin:$PATH" POTLUCK_DATA="/data" POTLUCK_CACHE="/data/cache"
USER potluck
VOLUME /data
EXPOSE 8470
# A node leaves politely: give it 40 seconds (docker run --stop-timeout 40).
STOPSIGNAL SIGINT
ENTRYPOINT ["potluck"]
CMD ["--help"]
