# Coordinator and node in one image: docker run … potluck serve MODEL, or docker run … potluck join URL.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/potluck
WORKDIR /source
# llama.cpp for any x86 CPU with AVX2, or for any ARM64 one: the image travels. Before the sources, which change more.
ENV CMAKE_ARGS="-DGGML_NATIVE=OFF"
COPY constraints.txt ./
RUN /opt/potluck/bin/pip install --no-cache-dir -c constraints.txt llama-cpp-python
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN /opt/potluck/bin/pip install --no-cache-dir -c constraints.txt '.[postgres]'

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 potluck \
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
