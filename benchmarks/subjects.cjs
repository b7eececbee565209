// The clients under Node, one line of JSON in and one out, as subjects.py has those under Python.
// node subjects.cjs CLIENT HOST PORT USER DATABASE PASSWORD
const fs = require('fs')

const [client, host, port, user, database, password] = process.argv.slice(2)
const config = { host, port: Number(port), user, database, password }

function line () { // read synchronously: between two statements of a transaction nothing else may run
  let text = ''
  const piece = Buffer.alloc(1)
  while (fs.readSync(0, piece, 0, 1, null) === 1 && piece[0] !== 10) text += piece.toString()
  return text
}

const say = (told) => fs.writeSync(1, JSON.stringify(told) + '\n')
const paused = () => { say({ paused: true }); line() }

const makers = {
  'serverless-mysql': () => {
    const db = require('serverless-mysql')({ config })
    return {
      run: async (sql) => { const rows = await db.query(sql); await db.end(); return rows },
      pair: async (first, second) => {
        await db.transaction().query(first).query(() => { paused(); return [second] }).commit()
        await db.end()
      }
    }
  },
  'serverless-postgres': () => {
    const Client = require('serverless-postgres')
    const db = new Client({ ...config, maxConnections: 300 })
    const run = async (sql) => { await db.connect(); const found = await db.query(sql); await db.clean(); return found.rows }
    return {
      run,
      pair: async (first, second) => {
        await db.connect()
        await db.query('BEGIN')
        await db.query(first)
        paused()
        await db.query(second)
        await db.query('COMMIT')
        await db.clean()
      }
    }
  },
  mysql2: () => {
    const opened = require('mysql2/promise').createConnection(config)
    return { run: async (sql) => (await (await opened).query(sql))[0] }
  },
  pg: () => {
    const { Client } = require('pg')
    const db = new Client(config)
    const opened = db.connect()
    return { run: async (sql) => { await opened; return (await db.query(sql)).rows } }
  }
}

async function answer (subject, asked) {
  if (asked.do === 'pair') return await subject.pair(...asked.sql)
  if (asked.do === 'run') return await subject.run(asked.sql)
  if (asked.do === 'both') {
    const told = await Promise.allSettled([subject.run(asked.sql), subject.run(asked.sql)])
    for (const one of told) if (one.reason) throw one.reason
    return null
  }
  const began = process.hrtime.bigint()
  for (let n = 0; n < asked.n; n++) await subject.run(asked.sql)
  return Number(process.hrtime.bigint() - began) / asked.n / 1000
}

async function main () {
  const subject = makers[client]()
  for (let text = line(); text; text = line()) {
    try {
      const result = await answer(subject, JSON.parse(text))
      say({ ok: true, result: typeof result === 'number' ? result : null, rows: Array.isArray(result) ? result.length : null })
    } catch (error) {
      say({ error: `${error.code || error.name}` })
    }
  }
  process.exit(0)
}

main()
