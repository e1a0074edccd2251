'use strict';

const express = require('express');
const pool = require('./database');

const router = express.Router();

router.get('/posts', async (request, response) => {
  const { rows } = await pool.query('SELECT id, title, body FROM posts ORDER BY id DESC LIMIT 50');
  response.json({ posts: rows });
});

router.post('/posts', async (request, response) => {
  const { title, body } = request.body || {};
  if (!title || !body) {
    response.status(400).json({ error: 'title and body are required' });
    return;
  }
  const { rows } = await pool.query('INSERT INTO posts (title, body) VALUES ($1, $2) RETURNING id, title, body', [
    title,
    body,
  ]);
  response.status(201).json(rows[0]);
});

module.exports = router;
