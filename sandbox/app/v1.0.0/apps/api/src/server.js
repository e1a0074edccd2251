'use strict';

const express = require('express');
const pool = require('./database');
const health = require('./health');
const { observe, exposition } = require('./observe');
const release = require('./release');

const app = express();
app.disable('x-powered-by');
app.use(observe);
app.use(express.json());
app.get('/health', health);
app.get('/metrics', exposition);
app.use(require('./posts'));

// Express knows an error handler by its four parameters.
app.use((error, request, response, next) => {
  console.error(JSON.stringify({ level: 'error', message: error.message, path: request.path, release }));
  response.status(error.status || 500).json({ error: error.message });
});

const server = app.listen(Number(process.env.PORT || 5007), () => {
  console.log(JSON.stringify({ level: 'info', message: 'listening', release }));
});

function stop() {
  server.close(() => pool.end().finally(() => process.exit(0)));
  server.closeIdleConnections();
  // A client that keeps its connection must not delay the stop.
  setTimeout(() => process.exit(0), 2000).unref();
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);
