'use strict';

const metrics = require('prom-client');
const release = require('./release');

metrics.collectDefaultMetrics();

new metrics.Gauge({ name: 'connectin_release_info', help: 'The release that runs', labelNames: ['release'] })
  .labels(release)
  .set(1);

const requests = new metrics.Counter({
  name: 'http_requests_total',
  help: 'Requests answered',
  labelNames: ['method', 'route', 'code'],
});

const durations = new metrics.Histogram({
  name: 'http_request_duration_seconds',
  help: 'Time to answer',
  labelNames: ['method', 'route', 'code'],
  // 2 s is a threshold of the rollback strategy, so it has to be an edge.
  buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10],
});

/** Counts every request and writes one line of JSON about it. */
function observe(request, response, next) {
  const started = process.hrtime.bigint();
  response.on('finish', () => {
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    const route = request.route ? request.route.path : 'unknown';
    const labels = { method: request.method, route, code: String(response.statusCode) };
    requests.inc(labels);
    durations.observe(labels, seconds);
    console.log(
      JSON.stringify({
        time: new Date().toISOString(),
        level: response.statusCode >= 500 ? 'error' : 'info',
        message: 'request',
        method: request.method,
        path: request.path,
        status: response.statusCode,
        duration_ms: Math.round(seconds * 1e6) / 1e3,
        release,
      })
    );
  });
  next();
}

async function exposition(request, response) {
  response.type(metrics.register.contentType).send(await metrics.register.metrics());
}

module.exports = { observe, exposition };
