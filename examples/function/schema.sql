-- MySQL, MariaDB and PostgreSQL. The token table comes with the client: see README.md.
CREATE TABLE goods (id int PRIMARY KEY, price int NOT NULL, stock int NOT NULL, last_sold timestamp NULL);
CREATE TABLE sales (id serial PRIMARY KEY, item int NOT NULL, pieces int NOT NULL, total int NOT NULL);
