# The coordinator's server: nginx, and Flower's SuperLink behind it, as docs/operate/coordinator.md has them.
# Built from the top of the source tree, see README.md.
ARG PYTHON_IMAGE=python:3.12-slim
FROM ${PYTHON_IMAGE} AS built
ARG TORCH=torch==2.13.0+cpu
ARG TORCH_INDEX
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY yoriai yoriai
COPY client client
COPY privacy privacy
COPY server server
COPY simulations simulations
COPY strategies strategies
RUN python3 -m venv /usr/local/yoriai
RUN /usr/local/yoriai/bin/pip install "${TORCH}" --index-url "${TORCH_INDEX}"
RUN /usr/local/yoriai/bin/pip install -c constraints.txt .

FROM ${PYTHON_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends nginx-light && rm -rf /var/lib/apt/lists/*
COPY --from=built /usr/local/yoriai /usr/local/yoriai
RUN ln -s /usr/local/yoriai/bin/yoriai /usr/local/bin/yoriai
RUN useradd --system --user-group --home-dir /srv/server --shell /usr/sbin/nologin yoriai-server
COPY docs/operate/containers/party.sh /usr/local/bin/party
EXPOSE 9092
ENTRYPOINT ["sh", "/usr/local/bin/party"]
CMD ["run-server"]
