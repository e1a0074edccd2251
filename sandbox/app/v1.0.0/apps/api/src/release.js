'use strict';

// Written by the release process, so that the service can say what it is.
module.exports = '@RELEASE@';
