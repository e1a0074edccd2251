'use strict';

const express = require('express');
const pool = require('./database');

const router = express.Router();

router.get('/posts', async (request, response) => {
  const { rows } = await pool.query('SELECT id, title, content, author FROM posts ORDER BY id DESC LIMIT 50');
  response.json({ posts: rows });
});

router.post('/posts', async (request, response) => {
  const { title, content, author } = request.body || {};
  if (!title || !content) {
    response.status(400).json({ error: 'title and content are required' });
    return;
  }
  const { rows } = await pool.query(
    'INSERT INTO posts (title, content, author) VALUES ($1, $2, $3) RETURNING id, title, content, author',
    [title, content, author || null]
  );
  response.status(201).json(rows[0]);
});

module.exports = router;
