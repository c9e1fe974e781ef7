# The sink as a container: docker compose --profile sink up. docs/operating.md says what it takes.
FROM denoland/deno:alpine-2.9.6
WORKDIR /app
ENV DENO_DIR=/app/.deno NO_COLOR=1
COPY deno.json deno.lock ./
COPY config config
COPY lib lib
# What notebooks, tests and embedded servers need is left out: 28 MB instead of 350.
RUN deno eval 'const config = JSON.parse(Deno.readTextFileSync("deno.json")); for (const name of Object.keys(config.imports)) if (/polars|plot|linkedom|embedded|playwright|fast-check|grafana|kubernetes|^@types/.test(name)) delete config.imports[name]; Deno.writeTextFileSync("deno.json", JSON.stringify(config))' \
  && deno install --entrypoint lib/cli/main.ts
USER deno
EXPOSE 9464
HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:9464/healthz"]
ENTRYPOINT ["deno", "run", "--cached-only", "--v8-flags=--max-semi-space-size=4,--max-old-space-size=1000", "--allow-net", "--allow-read", "--allow-env", "lib/cli/main.ts"]
CMD ["sink", "--metrics", "0.0.0.0:9464"]
